"""Generation directories. Reads: adc_features.codes.generation."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from adc_features.artifact import MANIFEST, checked, file_hash, with_check
from adc_features.codes.generation import check_generation_id, open_generation, write_generation
from adc_features.codes.spec import SidSpec
from adc_features.errors import ArtifactError, InputError

THROUGH = datetime(2024, 1, 1, tzinfo=UTC)


def write(directory, **changes):
    fields = {
        "generation_id": "g1",
        "tokenizer": "adc",
        "spec": SidSpec(content={"title": 1}, codebook_size=4),
        "settings": {"alpha": 2.0},
        "tensors": {
            "codebook": np.arange(8, dtype=np.float32).reshape(2, 4).T,
            "step": np.array(7),
        },
        "quality": {"entropy": float("nan")},
        "trained_through": THROUGH,
    }
    return write_generation(directory, **{**fields, **changes})


def test_a_generation_is_opened_as_it_was_written(tmp_path):
    """Spec, settings, tensors (scalars and transposed ones too), quality and time come back; the
    hash is the weights file's.
    """
    wrote = write(tmp_path / "g1")
    read = open_generation(tmp_path / "g1")
    assert (read.id, read.tokenizer, read.spec, read.settings) == (
        "g1",
        "adc",
        SidSpec(content={"title": 1}, codebook_size=4),
        {"alpha": 2.0},
    )
    assert read.tensors["codebook"].tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert read.tensors["step"].shape == ()
    assert read.quality == {"entropy": None}
    assert read.trained_through == THROUGH
    assert (
        read.codebook_hash
        == wrote.codebook_hash
        == file_hash(tmp_path / "g1" / "weights.safetensors")
    )


@pytest.mark.parametrize("name", ["weights.safetensors", "quality.json"])
def test_an_altered_file_is_named(tmp_path, name):
    """One flipped byte anywhere is refused, by the file's name."""
    write(tmp_path / "g1")
    path = tmp_path / "g1" / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ArtifactError, match=name):
        open_generation(tmp_path / "g1")


def test_a_generation_of_another_format_is_refused(tmp_path):
    """A newer format is refused, and the reader is told to upgrade."""
    write(tmp_path / "g1")
    manifest = json.loads((tmp_path / "g1" / MANIFEST).read_text())
    (tmp_path / "g1" / MANIFEST).write_text(
        json.dumps(
            with_check({**checked(manifest, tmp_path), "format": 99, "library_version": "9.9"})
        )
    )
    with pytest.raises(
        ArtifactError,
        match=r"format 99, this version reads up to 1: it was made by a newer version",
    ):
        open_generation(tmp_path / "g1")


def test_a_failed_write_leaves_nothing(tmp_path):
    """A generation that cannot be written whole is not there at all;
    nor is one whose time has no zone.
    """
    with pytest.raises(InputError, match="without a time zone"):
        write(tmp_path / "g1", trained_through=datetime(2024, 1, 1))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ArtifactError, match="never completed"):
        open_generation(tmp_path / "g1")


@pytest.mark.parametrize("name", ["", "G1", "1g", "g-1", "g 1", "g" * 32, "g1\n"])
def test_an_id_that_feast_could_not_name_a_view_by_is_refused(name):
    """The id is part of a view's name:
    lower-case letter first, then letters, digits or underscores.
    """
    with pytest.raises(InputError, match="for example 'g3'"):
        check_generation_id(name)
