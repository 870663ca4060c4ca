"""Files that change while they are read are found, by name."""

import fsspec
import pyarrow as pa
import pytest
from pyarrow import fs

from adc_features.errors import ArtifactError
from adc_features.input_files import InputFiles, all_of, states_of, unchanged


@pytest.fixture
def files(tmp_path):
    """Two files of three bytes."""
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in paths:
        path.write_bytes(b"old")
    return paths


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_bytes(b"newer"), r"\(3 bytes of 20.* before, 5 bytes of 20.* now"),
        (lambda path: path.unlink(), r"\(3 bytes of .* before, gone now\).*run it again"),
    ],
)
def test_a_file_that_changed_is_named(files, change, words):
    """With its size and time before and now; as long as nothing changes, nothing is said."""
    inputs = InputFiles.at(files)
    inputs.check()
    change(files[1])
    with pytest.raises(ArtifactError, match=rf"b\.parquet changed while it was read {words}"):
        inputs.check()


def test_a_listing_tells_new_files_too(files, tmp_path):
    """Where a folder is what is read, a file that came is a change of it."""
    where = fs.LocalFileSystem()
    inputs = InputFiles.seen(
        lambda: states_of(where.get_file_info(fs.FileSelector(str(tmp_path))), where)
    )
    (tmp_path / "c.parquet").write_bytes(b"new")
    with pytest.raises(ArtifactError, match=r"c\.parquet changed .*\(not there before, 3 bytes"):
        inputs.check()


def test_the_change_is_told_in_place_of_the_error_that_it_led_to(files):
    """A reader that fails on half a file raises what is wrong with it; other errors stay."""
    inputs = InputFiles.at(files)
    with pytest.raises(ValueError, match="mine"), unchanged([inputs]):
        raise ValueError("mine")
    files[0].write_bytes(b"n")
    with pytest.raises(ArtifactError, match=r"a\.parquet changed") as told, unchanged([inputs]):
        raise pa.ArrowInvalid("half a file")
    assert isinstance(told.value.__cause__, pa.ArrowInvalid)


def test_a_stream_is_checked_at_its_end(files):
    """Who stops before it is told nothing."""
    files[0].write_bytes(b"o")
    inputs = InputFiles.at(files)
    files[0].write_bytes(b"new")
    read = all_of(iter([1, 2]), [inputs])
    assert next(read) == 1
    read.close()
    with pytest.raises(ArtifactError, match="changed while it was read"):
        list(all_of(iter([1, 2]), [inputs]))


def test_an_etag_tells_files_of_one_size_and_time_apart(monkeypatch):
    """Of a file system of fsspec that gives one."""
    store = fsspec.filesystem("memory")
    store.pipe_file("/tags/a.parquet", b"old")
    where, told = fs.PyFileSystem(fs.FSSpecHandler(store)), ["one"]
    plain = store.info
    monkeypatch.setattr(store, "info", lambda path: {**plain(path), "ETag": told[0]})
    inputs = InputFiles.at(["/tags/a.parquet"], where)
    inputs.check()
    told[0] = "two"
    with pytest.raises(ArtifactError, match=r"/tags/a\.parquet changed"):
        inputs.check()
    store.rm("/tags", recursive=True)
