"""A Parquet source is read in parts, and each part is written whole or not at all."""

import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from adc_features.engines import engine_of
from adc_features.engines.local import LocalEngine
from adc_features.engines.parts import (
    Outcome,
    Part,
    PartWork,
    open_source,
    outcome,
    pieces,
    rows_of,
)
from adc_features.engines.places import Place
from adc_features.engines.watching import watching
from adc_features.errors import AdcError, ArtifactError, InputError, MissingExtraError


@pytest.fixture
def source(tmp_path):
    """100 numbers in two files, in row groups of 20."""
    folder = tmp_path / "numbers"
    folder.mkdir()
    for name, start, stop in (("a", 0, 70), ("b", 70, 100)):
        table = pa.table({"x": np.arange(start, stop), "y": np.arange(start, stop) * 2.0})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=20)
    return folder


def doubled(piece):
    return pa.table({"x": piece["x"], "twice": pc.multiply(piece["x"], 2)})


def written(folder):
    return [pq.read_table(p) for p in sorted(folder.glob("*.parquet"))]


def test_parts_are_row_groups_up_to_a_size_and_cover_every_row(source):
    """Row groups of 20 make parts of at most 45 rows, in the order of the files."""
    opened = open_source(str(source), rows_a_part=45)
    assert opened.parts == [
        Part(0, "a.parquet", (0, 1), 40),
        Part(1, "a.parquet", (2, 3), 30),
        Part(2, "b.parquet", (0, 1), 30),
    ]
    assert opened.rows == 100
    read = [pieces(opened.place, p, ["x"], rows=7) for p in opened.parts]
    tables = [t for part in read for t in part]
    assert max(map(len, tables)) == 7
    assert pa.concat_tables(tables)["x"].to_pylist() == list(range(100))


def test_a_part_is_written_in_pieces_in_the_order_of_its_rows(source, tmp_path):
    """The function sees pieces, the files have all rows; a part that is there is not made again."""
    seen = []

    def told(piece):
        seen.append(len(piece))
        return doubled(piece)

    opened, out = open_source(str(source), rows_a_part=45), tmp_path / "out"
    work = PartWork(str(source), ("x",), told, str(out), rows=25)
    done = []
    assert LocalEngine().run(work, opened.parts, told=done.append) == {0: 40, 1: 30, 2: 30}
    assert (max(seen), sum(done)) == (25, 100)
    table = pa.concat_tables(written(out))
    assert table["twice"].to_pylist() == [2 * x for x in range(100)]
    seen.clear()
    (out / "part-00001.parquet").unlink()
    LocalEngine().run(work, opened.parts, told=done.append)
    assert sum(seen) == 30


def test_a_failure_leaves_no_part(source, tmp_path):
    """What breaks in the middle of a part leaves neither it nor what was written of it."""

    def breaks(piece):
        if piece["x"][0].as_py() >= 20:
            raise ValueError("broken")
        return doubled(piece)

    work = PartWork(str(source), ("x",), breaks, str(tmp_path / "out"), rows=20)
    with pytest.raises(ValueError, match="broken"):
        work(open_source(str(source)).parts[0])
    assert list((tmp_path / "out").iterdir()) == []


def test_rows_that_get_lost_are_refused(source, tmp_path):
    """A function that returns fewer rows than it got writes nothing."""
    work = PartWork(str(source), ("x",), lambda piece: piece.slice(1), str(tmp_path / "out"))
    with pytest.raises(ArtifactError, match=r"70 rows of a\.parquet became 69"):
        work(open_source(str(source)).parts[0])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_source_that_cannot_be_used_is_refused(source, tmp_path):
    """No files, other columns, a damaged file, and the folder of a Delta or Iceberg table."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no rows in Parquet files"):
        open_source(str(tmp_path / "empty"))
    pq.write_table(pa.table({"x": [1]}), source / "c.parquet")
    with pytest.raises(InputError, match=r"c\.parquet has columns \['x int64'\]"):
        open_source(str(source))
    (source / "c.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ArtifactError, match=r"c\.parquet cannot be read"):
        open_source(str(source))
    (source / "_delta_log").mkdir()
    with pytest.raises(InputError, match="is a Delta table"):
        open_source(str(source))


def test_files_that_begin_with_an_underscore_or_a_dot_are_not_rows(source):
    """What Spark and others leave beside their files is no part of the source."""
    (source / "_SUCCESS").touch()
    (source / "_temporary").mkdir()
    pq.write_table(pa.table({"z": [1]}), source / "_temporary" / "x.parquet")
    pq.write_table(pa.table({"z": [1]}), source / ".half.parquet")
    assert open_source(str(source)).rows == 100


def test_an_error_of_a_worker_comes_back_as_its_own_class():
    """Errors of this library are answers; another error flies, for the engine to try again."""

    def refused(part):
        raise InputError(f"item {part.number} is broken")

    def lacks(part):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    def died(part):
        raise OSError("gone")

    part = Part(3, "a", (0,), 5)
    answer = outcome(refused, part)
    assert answer == Outcome(3, 0, "InputError", "item 3 is broken")
    with pytest.raises(InputError, match="item 3 is broken"):
        rows_of([Outcome(4, 5), answer])
    with pytest.raises(AdcError, match="no torch"):
        rows_of([Outcome(1, 0, MissingExtraError.__name__, "no torch")])
    with pytest.raises(AdcError, match=r"adc-features\[train\]"):
        rows_of([outcome(lacks, part)])
    with pytest.raises(OSError, match="gone"):
        outcome(died, part)
    assert rows_of([Outcome(1, 5), Outcome(0, 7)]) == {0: 7, 1: 5}


def test_an_engine_that_is_not_known_is_refused():
    """The three engines are named; the local one has no settings."""
    assert [engine_of(name).name for name in ("local", "spark", "ray")] == ["local", "spark", "ray"]
    with pytest.raises(InputError, match="expected one of local, spark, ray"):
        engine_of("dask")
    with pytest.raises(InputError, match="no settings"):
        engine_of("local", {"cores": 2})


def test_a_place_is_a_path_or_a_uri(tmp_path, monkeypatch):
    """A file system of fsspec does what a path does; a scheme that nobody knows is refused."""
    for place in (Place(str(tmp_path / "here")), Place("memory://engines-place")):
        place.write("a/b.txt", b"words")
        place.write("a/b.txt", b"other words")
        assert place.read("a/b.txt") == b"other words"
        assert place.json("a/c.json") is None
        assert list(place.hashes("a")) == ["a/b.txt"]
        assert place.local_copy("a/b.txt").read_bytes() == b"other words"
        assert (place.local_copy("a") / "b.txt").read_bytes() == b"other words"
        assert place.below("a").read("b.txt") == b"other words"
        place.write("a/d.json", b"{")
        with pytest.raises(ArtifactError, match="not JSON"):
            place.json("a/d.json")
        place.delete("a")
        assert place.listed(recursive=True) == []
        with pytest.raises((ArtifactError, FileNotFoundError)):
            place.read("a/b.txt")
    with pytest.raises(InputError, match="no file system"):
        Place("nosuch://here").info()
    monkeypatch.chdir(tmp_path)
    assert Place.named("here").uri == str(tmp_path / "here")
    assert Place.named("memory://here").uri == "memory://here"
    assert Place("s3://bucket/x?region=here").below("y").uri == "s3://bucket/x/y?region=here"


def test_progress_of_others_is_told_once_a_part(tmp_path):
    """Files that appear are told while the work goes on, each once, and the rest at its end."""
    parts = [Part(0, "", (0,), 5), Part(1, "", (1,), 7)]
    told = []
    with watching(str(tmp_path), parts, told.append, every=0.01):
        (tmp_path / "part-00000.parquet").touch()
        (tmp_path / "other.parquet").touch()
        until = time.monotonic() + 30
        while not told and time.monotonic() < until:
            time.sleep(0.01)
        assert told == [5]
        (tmp_path / "part-00001.parquet").touch()
    assert told == [5, 7]
