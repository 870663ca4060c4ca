"""Spark and Ray write the same codes as this process, to the bit, and fail in our own words."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoding_world import catalogue, same, write

from adc_features.artifact import MANIFEST
from adc_features.codes.generation import open_generation
from adc_features.encoding import encode_files
from adc_features.engines import engine_of
from adc_features.engines.parts import PartWork, open_source
from adc_features.engines.spark import spark_session
from adc_features.errors import ArtifactError, InputError, MissingExtraError
from adc_features.tokenizer.encode import encode

MASTER = "local[2]"


def spark_or_skip() -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed: adc-features[spark]")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed; apt install openjdk-17-jre-headless")


@pytest.fixture(scope="module", params=["spark", "ray"])
def engine(request, tmp_path_factory):
    """A small cluster on this machine, ended with the module."""
    if request.param == "spark":
        spark_or_skip()
        yield engine_of("spark", {"spark.master": MASTER, "spark.driver.memory": "512m"})
        spark_session({}).stop()
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


def dies_once(mark: Path):
    """What kills its process the first time it meets an item of the last file."""

    def piece_of(piece: pa.Table) -> pa.Table:
        if "i300" in piece["item_id"].to_pylist() and not mark.exists():
            mark.touch()
            os._exit(9)
        return piece

    return piece_of


def test_a_worker_that_dies_leaves_whole_parts_and_the_same_result(engine, items, tmp_path):
    """Where the engine tries again, or the command is run again, every part is there once and
    whole; what was finished before is kept.
    """
    source, out = open_source(str(items)), tmp_path / "out"
    work = PartWork(str(items), ("item_id",), dies_once(tmp_path / "died"), str(out))
    if engine.name == "spark":  # a local one does not try again
        with pytest.raises(ArtifactError, match=r"Spark stopped: .*finished parts are kept"):
            engine.run(work, source.parts, told=lambda rows: None)
    rows = engine.run(work, source.parts, told=lambda rows: None)
    assert (tmp_path / "died").exists()
    assert rows == {0: 139, 1: 86, 2: 75}
    assert sorted(p.name for p in out.glob("*.parquet")) == [p.name for p in source.parts]
    tables = [pq.read_table(out / part.name) for part in source.parts]
    assert pa.concat_tables(tables)["item_id"].to_pylist() == catalogue().item_ids.tolist()


def test_spark_without_java_or_pyspark_says_what_to_install(monkeypatch):
    """Before anything is started: the extra, or a Java runtime."""
    spark_or_skip()
    from pyspark.sql import SparkSession

    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(MissingExtraError, match="needs Java 17"):
        spark_session({})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"adc-features\[spark\]"):
        spark_session({})
