"""Spark and Ray write the same codes as this process, to the bit, and fail in our own words."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoding_world import catalogue, same, write

from adc_features.artifact import MANIFEST
from adc_features.codes.generation import open_generation
from adc_features.encoding import encode_files, open_encoded
from adc_features.engines import engine_of
from adc_features.engines.parts import PartWork, open_source
from adc_features.engines.spark import spark_session
from adc_features.errors import ArtifactError, InputError, MissingExtraError
from adc_features.tokenizer.encode import encode


@pytest.fixture(scope="module", params=["spark", "ray"])
def engine(request):
    """A small cluster on this machine."""
    if request.param == "spark":
        request.getfixturevalue("spark")
        yield engine_of("spark")
        return
    ray = pytest.importorskip("ray", reason="ray is not installed: adc-features[ray]")
    yield engine_of("ray", {"num_cpus": 2, "include_dashboard": False, "logging_level": "ERROR"})
    ray.shutdown()


pytestmark = [pytest.mark.slow, pytest.mark.spark]


def test_every_engine_gives_what_memory_gives(engine, items, tmp_path, generation, packed):
    """Codes, weights, reliability and collision counts are equal bit for bit, with the snapshot
    before held; progress ends with every item.
    """
    from adc_features.store.packed.snapshot import PackedSnapshot

    told = []
    made = encode_files(
        str(items),
        str(tmp_path / "out"),
        generation,
        engine=engine,
        previous=packed,
        progress=lambda label, done, total: told.append(done),
    )
    before = PackedSnapshot(packed).table()[0]
    assert same(made.table(), encode(catalogue(), open_generation(generation), previous=before))
    assert told[-1] == 300


def test_a_bad_item_is_named_by_the_worker_and_nothing_is_complete(engine, tmp_path, generation):
    """The worker's InputError is the driver's, not a trace of the engine; nothing is published."""
    broken = catalogue().to_arrow()
    place = broken.column_names.index("vector_title")
    values = broken["vector_title"].combine_chunks().flatten().to_numpy().copy()
    values[250 * 6] = float("nan")
    column = pa.FixedSizeListArray.from_arrays(pa.array(values), 6)
    folder = write(broken.set_column(place, "vector_title", column), tmp_path / "items")
    with pytest.raises(InputError, match=r"NaN or infinite values \(first item .*'i300'"):
        encode_files(str(folder), str(tmp_path / "out"), generation, engine=engine)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_items_that_change_meanwhile_void_the_work(engine, items, tmp_path, generation):
    """A file that is replaced while workers read is named, and nothing is complete."""

    def changes(label, done, total):
        pq.write_table(pq.read_table(items / "0.parquet"), items / "0.parquet")

    with pytest.raises(ArtifactError, match=r"0\.parquet changed while it was read"):
        encode_files(str(items), str(tmp_path / "out"), generation, engine=engine, progress=changes)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_spark_that_is_started_for_it_gives_what_memory_gives(items, tmp_path, generation):
    """Without a session: a context without SQL, whose workers are forked with torch imported."""
    pytest.importorskip("pyspark")
    program = """if True:
        import sys
        from pathlib import Path
        from adc_features.encoding import encode_files
        from adc_features.engines import engine_of
        from pyspark.sql import SparkSession
        items, out, generation = sys.argv[1:]
        engine = engine_of("spark", {"spark.master": "local[1]", "spark.log.level": "OFF"})
        encode_files(items, out, Path(generation), engine=engine)
        assert SparkSession.getActiveSession() is None
        assert "torch" not in sys.modules
    """
    arguments = [str(items), str(tmp_path / "out"), str(generation)]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=False, capture_output=True, text=True
    )
    if "needs Java" in done.stderr:
        pytest.skip("there is no Java")
    assert done.returncode == 0, done.stderr
    expected = encode(catalogue(), open_generation(generation))
    assert same(open_encoded(str(tmp_path / "out")).table(), expected)


def dies_once(mark: Path):
    """What kills its process the first time it meets an item of the last file."""

    def piece_of(piece: pa.Table) -> pa.Table:
        if "i300" in piece["item_id"].to_pylist() and not mark.exists():
            mark.touch()
            os._exit(9)
        return piece

    return piece_of


def test_a_worker_that_dies_leaves_whole_parts_and_the_same_result(engine, items, tmp_path):
    """The engine tries again: every part is there once and whole."""
    source, out = open_source(str(items)), tmp_path / "out"
    work = PartWork(str(items), ("item_id",), dies_once(tmp_path / "died"), str(out))
    rows = engine.run(work, source.parts, told=lambda rows: None)
    assert (tmp_path / "died").exists()
    assert rows == {0: 139, 1: 86, 2: 75}
    assert sorted(p.name for p in out.glob("*.parquet")) == [p.name for p in source.parts]
    tables = [pq.read_table(out / part.name) for part in source.parts]
    assert pa.concat_tables(tables)["item_id"].to_pylist() == catalogue().item_ids.tolist()


def dies_always(piece: pa.Table) -> pa.Table:
    """What kills its process with every item."""
    os._exit(9)


def test_an_engine_that_gives_up_says_what_is_kept(spark, items, tmp_path):
    """Where workers die again and again."""
    work = PartWork(str(items), ("item_id",), dies_always, str(tmp_path / "out"))
    with pytest.raises(ArtifactError, match=r"Spark stopped: .*finished parts are kept"):
        engine_of("spark").run(work, open_source(str(items)).parts, told=lambda rows: None)


def test_spark_without_java_or_pyspark_says_what_to_install(spark, monkeypatch):
    """Before anything is started: the extra, or a Java runtime."""
    from pyspark.sql import SparkSession

    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(MissingExtraError, match="needs Java 17"):
        spark_session({})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"adc-features\[spark\]"):
        spark_session({})
