"""The file that says what serves."""

import json

import pytest
from ranking_world import day

from adc_features.errors import ArtifactError, GenerationMismatch
from adc_features.serving.promotion import promote, read_promotion


def test_a_promotion_reads_back_as_it_was_written(shop, tmp_path):
    """All of it, by value; a second one replaces the first."""
    path = tmp_path / "promotion.json"
    for name, at in (("codes_weights", day(1)), ("no_sid", day(2)), ("second", day(3))):
        pair = shop.pair(name, at=at)
        promote(path, pair)
        assert read_promotion(path) == pair
    assert [p.name for p in tmp_path.iterdir()] == ["promotion.json"]


def test_a_run_that_was_moved_keeps_its_promotion(shop, tmp_path):
    """Places below the file are relative to it."""
    parent = shop.repository.parent
    promote(parent / "promotion.json", shop.pair("codes_weights"))
    facts = json.loads((parent / "promotion.json").read_text())
    assert (facts["ranker"], facts["repository"]) == ("codes_weights", "repository")
    (parent / "promotion.json").rename(tmp_path / "promotion.json")
    assert read_promotion(tmp_path / "promotion.json").ranker == tmp_path / "codes_weights"


def test_what_cannot_serve_is_not_promoted(shop, tmp_path):
    """The file stays as it was when the new pair does not fit together."""
    from dataclasses import replace

    path = tmp_path / "promotion.json"
    promote(path, shop.pair("codes_weights"))
    before = path.read_bytes()
    with pytest.raises(GenerationMismatch):
        promote(path, replace(shop.pair("second"), generation="g1"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"ranker": 1}', "\xff", None])
def test_a_broken_promotion_is_named(tmp_path, text):
    """Missing, empty, another document: an ArtifactError that says what to do."""
    path = tmp_path / "promotion.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match=r"adc promote --run DIR"):
        read_promotion(path)


def test_an_altered_promotion_is_refused(shop, tmp_path):
    """One digit of its time changed: the file's own check says so."""
    path = tmp_path / "promotion.json"
    promote(path, shop.pair("codes_weights"))
    text = path.read_text()
    at = text.index('"promoted_at": "2') + len('"promoted_at": "2')
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
    with pytest.raises(ArtifactError, match="is not what was written"):
        read_promotion(path)
