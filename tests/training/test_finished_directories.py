"""One cache of finished directories, for comparisons, retrainings and retrieval alike."""

import json
from pathlib import Path

import pytest

from adc_features.artifact import (
    MANIFEST,
    checked,
    ensure_directory,
    is_made_of,
    read_manifest,
    with_check,
)
from adc_features.errors import NewerFormatError


def filled(target: Path, made_of: object, text: str = "content") -> bool:
    def fill(directory: Path) -> dict[str, int]:
        (directory / "file.txt").write_text(text)
        return {"size": len(text)}

    return ensure_directory(target, {"of": made_of}, fill)


def test_a_directory_is_made_once_for_the_same_inputs(tmp_path):
    """The second call fills nothing; a tuple and a list are the same inputs, as JSON has them."""
    assert filled(tmp_path / "a", (1, 2))
    assert not filled(tmp_path / "a", [1, 2], "other")
    assert (tmp_path / "a" / "file.txt").read_text() == "content"
    assert read_manifest(tmp_path / "a")["size"] == 7


def test_other_inputs_and_altered_files_make_it_anew(tmp_path):
    """In its place, under the same name; nothing else is left beside it."""
    filled(tmp_path / "a", 1)
    assert filled(tmp_path / "a", 2)
    (tmp_path / "a" / "file.txt").write_text("altered")
    assert not is_made_of(tmp_path / "a", {"of": 2})
    assert filled(tmp_path / "a", 2)
    (tmp_path / "a" / MANIFEST).write_text("{")
    assert filled(tmp_path / "a", 2)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_fill_that_fails_leaves_what_was_there(tmp_path):
    """The finished directory stays, the half of a new one goes."""
    filled(tmp_path / "a", 1)

    def fill(directory: Path) -> None:
        (directory / "half.txt").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_directory(tmp_path / "a", {"of": 2}, fill)
    assert is_made_of(tmp_path / "a", {"of": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_newer_version_finished_is_not_made_anew(tmp_path):
    """Of the same inputs or of others: it is refused, and stays as it was."""
    filled(tmp_path / "a", 1)
    manifest = tmp_path / "a" / MANIFEST
    document = checked(json.loads(manifest.read_text()), manifest)
    manifest.write_text(json.dumps(with_check({**document, "format": 99})))
    before = manifest.read_text()
    for made_of in (1, 2):
        with pytest.raises(NewerFormatError, match="format 99, this version reads up to 1"):
            filled(tmp_path / "a", made_of)
    assert manifest.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
