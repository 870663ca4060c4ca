"""Directories that are complete or invisible. Reads: adc_features.artifact."""

import ast
import errno
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import adc_features
from adc_features.artifact import (
    MANIFEST,
    append_line,
    file_hash,
    fresh_directory,
    fresh_file,
    json_text,
    read_manifest,
    seal,
    write_atomically,
    write_json,
)
from adc_features.errors import ArtifactError


def write(target, text="1"):
    with fresh_directory(target) as aside:
        (aside / "data.txt").write_text(text)
        (aside / "inside").mkdir()
        (aside / "inside" / MANIFEST).write_text("{}")
        seal(aside, {"kind": "example"})


def test_a_complete_directory_names_every_file(tmp_path):
    """The manifest holds the facts and the hash of every other file, also of manifests
    further in.
    """
    write(tmp_path / "made")
    manifest = read_manifest(tmp_path / "made")
    assert manifest["kind"] == "example"
    assert manifest["files"] == {
        name: file_hash(tmp_path / "made" / name) for name in ("data.txt", f"inside/{MANIFEST}")
    }


def test_a_directory_is_replaced_whole(tmp_path):
    """The new directory takes the old one's place;
    nothing of the old one and nothing hidden is left.
    """
    write(tmp_path / "made", "old")
    (tmp_path / "made" / "extra").write_text("old")
    write(tmp_path / "made", "new")
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["data.txt", "inside", MANIFEST]
    assert (tmp_path / "made" / "data.txt").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_failure_leaves_the_old_directory_and_nothing_else(tmp_path, error):
    """When writing fails half-way, readers go on finding what was there before."""
    write(tmp_path / "made", "old")

    def fail():
        with fresh_directory(tmp_path / "made") as aside:
            (aside / "data.txt").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert read_manifest(tmp_path / "made")["kind"] == "example"
    assert (tmp_path / "made" / "data.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_a_killed_writer_leaves_nothing_visible(tmp_path):
    """A process killed between two files leaves no target;
    the next attempt sweeps its remains and succeeds.
    """
    code = (
        "import sys, os, signal; from pathlib import Path; from adc_features.artifact import"
        " fresh_directory\nwith fresh_directory(Path(sys.argv[1])) as aside:\n    (aside /"
        " 'data.txt').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    target = tmp_path / "made [1]"  # brackets mean something to glob
    killed = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    with pytest.raises(ArtifactError, match="does not exist or was never completed"):
        read_manifest(target)
    assert len(list(tmp_path.iterdir())) == 1
    write(target)
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda d: (d / "data.txt").write_text("2"),
            r"data.txt has sha256 .* the file was altered, write the artefact again",
        ),
        (lambda d: (d / "data.txt").unlink(), "data.txt is missing"),
        (lambda d: (d / MANIFEST).unlink(), f"has no {MANIFEST}"),
        (lambda d: (d / MANIFEST).write_text('{"files": {'), "is not JSON"),
        (lambda d: (d / MANIFEST).write_bytes(b"\xff\xfe\x00"), "is not JSON"),
        (
            lambda d: (d / MANIFEST).write_text('{"name": "a web page"}'),
            "was not written by this library",
        ),
        (lambda d: (d / MANIFEST).write_text("[]"), "was not written by this library"),
    ],
)
def test_damage_is_named(tmp_path, damage, words):
    """A missing, altered or foreign file is refused by its name."""
    write(tmp_path / "made")
    damage(tmp_path / "made")
    with pytest.raises(ArtifactError, match=words):
        read_manifest(tmp_path / "made")


def test_json_holds_plain_values():
    """Numpy scalars and arrays, times and paths take their plain forms;
    NaN and infinity become null.
    """
    value = {
        "a": np.float32(0.5),
        "b": np.array([1, 2]),
        "c": float("nan"),
        "d": datetime(2024, 1, 1, tzinfo=UTC),
        "e": Path("x/y"),
        1: (np.bool_(True), -np.inf),
    }
    assert json.loads(json_text(value)) == {
        "a": 0.5,
        "b": [1, 2],
        "c": None,
        "d": "2024-01-01T00:00:00+00:00",
        "e": "x/y",
        "1": [True, None],
    }


def test_a_full_disk_keeps_the_old_json(tmp_path, monkeypatch):
    """When the disk is full the reader still sees the old file, and no half file is left
    beside it.
    """
    write_json(tmp_path / "facts.json", {"a": 1})

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "facts.json", {"a": 2})
    assert json.loads((tmp_path / "facts.json").read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["facts.json"]


def test_a_writer_killed_between_its_renames_loses_nothing(tmp_path):
    """The old directory, already moved aside when the process died, is put back by the next attempt
    before it is replaced.
    """
    write(tmp_path / "made", "old")
    (tmp_path / "made").rename(tmp_path / ".made.old")  # what the first of the two renames does
    with pytest.raises(ZeroDivisionError), fresh_directory(tmp_path / "made"):
        raise ZeroDivisionError
    assert (tmp_path / "made" / "data.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_a_manifest_with_another_value_is_refused(tmp_path):
    """Each altered fact of a manifest is named as such, verified or not; a manifest without a
    check, of an older version, is read.
    """
    seal(tmp_path, {"as_of": "2024-01-01", "rows": 3})
    path = tmp_path / MANIFEST
    whole = path.read_text()
    assert read_manifest(tmp_path) == {
        "format": 1,
        "as_of": "2024-01-01",
        "rows": 3,
        "files": {},
    }
    for old, new in (
        ("2024-01-01", "2024-01-09"),
        ('"rows": 3', '"rows": 7'),
        ('"rows"', '"rowt"'),
    ):
        path.write_text(whole.replace(old, new))
        for verify in (True, False):
            with pytest.raises(ArtifactError, match="is not what was written"):
                read_manifest(tmp_path, verify=verify)
    path.write_text('{"rows": 3, "files": {}}')
    assert read_manifest(tmp_path)["rows"] == 3


@pytest.mark.parametrize("content", ["näher\n", b"\0\xff"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, content):
    """Texts are UTF-8; nothing is left beside the file."""
    path = tmp_path / "page.html"
    path.write_text("before")
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_write_that_fails_leaves_the_file_of_before(tmp_path):
    """What the block had written is gone, the old file stays as it was."""
    path = tmp_path / "state.npz"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), fresh_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["state.npz"]


def test_files_are_replaced_and_locked_in_one_place_each():
    """No module but `artifact` renames a file over another, none but `file_lock` locks one."""
    root = Path(adc_features.__file__).parents[1]
    found = set()
    for module in (p for top in ("adc_features", "training") for p in (root / top).rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            name = str(module.relative_to(root))
            if isinstance(node, ast.Import) and any(one.name == "fcntl" for one in node.names):
                found.add((name, "fcntl"))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                # str.replace takes two arguments, datetime.replace names them
                of_os = isinstance(node.func.value, ast.Name) and node.func.value.id == "os"
                if node.func.attr in {"rename", "replace"} and len(node.args) == 1 + of_os:
                    found.add((name, node.func.attr))
    assert found == {
        ("adc_features/artifact.py", "replace"),
        ("adc_features/file_lock.py", "fcntl"),
        # room is made for an index once its size is known; threads of one process write at once
        ("adc_features/store/join/kept_index.py", "replace"),
        # a segment is open for minutes, and sealed when it is large enough
        ("adc_features/served/segments.py", "replace"),
        # a directory that stands in a file's place is moved aside
        ("adc_features/serving/promotion.py", "rename"),
        # a finished challenger takes its place among the versions, where none was
        ("training/deployment/declared/retrain.py", "rename"),
    }


def test_a_line_is_appended_after_one_that_was_cut_short(tmp_path):
    """Lines are added at the end; what a crash left of one stands on a line of its own."""
    path = tmp_path / "events.jsonl"
    append_line(path, "one")
    append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"
    path.write_text("one\ntw")
    append_line(path, "three")
    assert path.read_text() == "one\ntw\nthree\n"
