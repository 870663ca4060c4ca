"""What a semantic ID is made of. Reads: adc_features.codes.spec."""

import json

import pytest

from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import InputError


def test_positions_follow_from_the_counts():
    """Shared positions come first, then content in the order given, then behaviour; everything else
    is derived.
    """
    spec = SidSpec(content={"title": 1, "image": 2}, shared=1, behavior=3)
    assert [p.name for p in spec.positions] == [
        "shared",
        "title",
        "image",
        "image",
        BEHAVIOR,
        BEHAVIOR,
        BEHAVIOR,
    ]
    assert spec.length == 7
    assert spec.modalities == ("title", "image", BEHAVIOR)
    assert spec.is_behavioral == (False, False, False, False, True, True, True)


def test_an_absent_modality_has_no_position():
    """A modality with no expert is not read; without behaviour there is no behavioural position."""
    spec = SidSpec(content={"title": 1, "image": 0}, shared=0, behavior=0)
    assert [p.name for p in spec.positions] == ["title"]
    assert spec.modalities == ("title",)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"content": {"behavior": 1}}, "reserved names"),
        ({"content": {"shared": 1}}, "reserved names"),
        ({"content": {}, "shared": 0, "behavior": 0}, "at least one position"),
        ({"content": {"title": -1}}, "counts >= 0"),
        ({"content": {"title": 1.5}}, "counts >= 0"),
        ({"content": {"title": 1}, "codebook_size": 1}, "expected 2 to 65535"),
        ({"content": {"title": 1}, "codebook_size": 65_536}, "expected 2 to 65535"),
        ({"content": {"title": 1}, "weight_dtype": "bfloat16"}, "'float32' or 'float16'"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(fields, words):
    """A spec refuses itself with what it got and what it expects."""
    with pytest.raises(InputError, match=words):
        SidSpec(**fields)


def test_a_spec_survives_json():
    """from_dict undoes to_dict, through JSON."""
    spec = SidSpec(content={"title": 1, "image": 2}, codebook_size=16, weight_dtype="float16")
    again = SidSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.positions == spec.positions
