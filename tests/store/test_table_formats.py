"""Delta and Iceberg tables as sources: the rows of one version, as the tables' own libraries
write them.
"""

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from table_world import FIRST, Delta, Iceberg, asked, day, joined, online, repository, rows

from adc_features.errors import ArtifactError, InputError, MissingExtraError
from adc_features.store.offline.places import Places
from adc_features.store.parquet.sources import Declared

pytest.importorskip("deltalake", reason="needs the extra delta")
pytest.importorskip("pyiceberg", reason="needs the extra iceberg")


@pytest.fixture(params=[Delta, Iceberg])
def table(request, tmp_path):
    made = request.param(tmp_path)
    made.append(FIRST)
    return made


def test_deleted_and_overwritten_rows_are_not_served(table, tmp_path):
    """A join and a materialization see what the table holds now, not what its files hold."""
    store = repository(tmp_path, table.source())
    assert joined(store, 1, 2, 3) == [1.0, 2.0, 3.0]
    table.append(rows((2, 20.0, 2), (4, 4.0, 2)))
    table.delete("id = 3")
    assert joined(store, 1, 2, 3, 4) == [1.0, 20.0, None, 4.0]
    assert online(store, 1, 2, 3, 4) == [1.0, 20.0, None, 4.0]
    table.overwrite(rows((1, 7.0, 3)))
    assert joined(store, 1, 2, 3, 4) == [7.0, None, None, None]


def test_a_table_that_changes_under_a_job_is_read_at_one_version(table, tmp_path):
    """What is committed after a join began is not seen; the job says which version it reads."""
    store = repository(tmp_path, table.source())
    job = store.get_historical_features(asked(1, 2, 3), ["v:v"])
    before = table.version
    table.append(rows((1, 10.0, 5)))
    table.delete("id = 2")
    assert job.to_arrow()["v"].to_pylist() == [1.0, 2.0, 3.0]
    assert {**job.tables["v"], "table": None} == {
        "format": table.kind,
        "table": None,
        "version": before,
    }
    assert joined(store, 1, 2, 3) == [10.0, None, 3.0]


def test_a_source_may_name_the_version_it_reads(table, tmp_path):
    """The tag table_version reads what was committed then, for a join that is done again."""
    before = table.version
    table.delete("id = 2")
    old = repository(tmp_path, table.source(tags={"table_version": before}))
    assert joined(old, 1, 2) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("version", "error", "message"),
    [("newest", InputError, "expected a whole number"), ("77", ArtifactError, "77")],
)
def test_a_version_that_is_none_is_refused(table, tmp_path, version, error, message):
    """By the name of the tag, or of what is missing."""
    with pytest.raises(error, match=message):
        Places(tmp_path).place(table.source(tags={"table_version": version}))


# ---- what tables go through


def test_a_column_that_was_added_is_null_in_older_rows(table, tmp_path):
    """Also while no file has it; other columns stay."""
    table.add_column("clicks")
    store = repository(tmp_path, table.source(), more=[("clicks", "Int64")])
    assert joined(store, 1, feature="clicks") == [None]
    table.append(rows((1, 9.0, 4)).append_column("clicks", pa.array([5])))
    assert joined(store, 1, 2, feature="clicks") == [5, None]
    assert joined(store, 1, 2) == [9.0, 2.0]


def test_a_table_without_rows_knows_nothing(table, tmp_path):
    """It is a table all the same: every feature is null, and nothing is put online."""
    table.delete("id > 0")
    store = repository(tmp_path, table.source())
    assert joined(store, 1, 2) == [None, None]
    assert online(store, 1) == [None]


def test_what_a_file_of_a_pinned_version_lost_is_said(table, tmp_path):
    """Clean-up under a job is told by name, not served as nothing known."""
    job = repository(tmp_path, table.source()).get_historical_features(asked(1), ["v:v"])
    for file in table.data_files():
        file.unlink()
    with pytest.raises(ArtifactError, match="the newest version"):
        job.to_arrow()


def test_views_of_one_table_read_one_version(table, tmp_path):
    """The first of them pins it for the others."""
    places = Places(tmp_path)
    first = places.place(table.source()).table
    table.append(rows((9, 9.0, 9)))
    assert places.place(table.source()).table is first
    assert Places(tmp_path).place(table.source()).table.version != first.version


def test_nothing_is_written_to_a_table(table, tmp_path):
    """Its own library writes it: pushes and saved rows are refused by name."""
    from adc_features.store.offline_store import AsofOfflineStore

    store, before = repository(tmp_path, table.source()), table.version
    with pytest.raises(InputError, match="reads and never writes"):
        AsofOfflineStore.offline_write_batch(store.config, store.get_feature_view("v"), FIRST, None)
    assert table.version == before


def test_the_facts_of_a_join_name_the_version(table, tmp_path):
    """Rows that a service joined say in their metadata what they were read from."""
    from feast import FeatureService

    from adc_features.store.parquet.table_version import tables_read
    from adc_features.store.services.schema import service_schema
    from adc_features.store.services.training_rows import join_service
    from training.ranker.joined import JoinedRows

    store = repository(tmp_path, table.source())
    store.apply([FeatureService(name="all", features=[store.get_feature_view("v")])])
    settings = {
        "project": "tables",
        "provider": "local",
        "registry": str(tmp_path / "registry.db"),
        "offline_store": {"type": "adc_features.store.offline_store.AsofOfflineStore"},
        "online_store": {"type": "sqlite", "path": str(tmp_path / "online.db")},
        "entity_key_serialization_version": 3,
    }
    (tmp_path / "feature_store.yaml").write_text(json.dumps(settings))
    answer = join_service(tmp_path, service_schema(tmp_path, "all"), asked(1, 2))
    assert answer["v__v"].to_pylist() == [1.0, 2.0]
    assert tables_read(answer)["v"]["version"] == table.version
    assert JoinedRows(None, None, None, answer, {}).tables == tables_read(answer)
    assert tables_read(asked(1)) == {}


@pytest.mark.parametrize("missing", ["deltalake", "pyiceberg"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, missing):
    """Without the library that reads the format."""
    import sys

    made = Delta(tmp_path) if missing == "deltalake" else Iceberg(tmp_path)
    for name in [n for n in sys.modules if n.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"adc-features\[(delta|iceberg)\]"):
        Places(tmp_path).place(made.source())


def test_there_is_no_table(tmp_path):
    """The address or the name is told."""
    with pytest.raises(ArtifactError, match=r"no Delta table at .*table"):
        Places(tmp_path).place(Delta(tmp_path).source())
    (tmp_path / "warehouse").mkdir()
    with pytest.raises(ArtifactError, match=r"no Iceberg table own\.shop\.items"):
        Places(tmp_path).place(Iceberg(tmp_path).source())


# ---- Delta


def version_rows(source, folder: Path) -> pa.Table:
    """The rows of the newest version, by id."""
    place, declared = Places(folder).place(source), Declared({}, times=("event_timestamp",))
    opened = place.opened(of="table", declared=declared)
    return opened.table(opened.names).sort_by([("id", "ascending"), ("v", "ascending")])


def test_partitions_of_a_delta_table_are_columns(tmp_path):
    """In their types, nulls and odd characters included, whatever the names of the directories."""
    made = Delta(tmp_path)
    kinds = {"zip": ["01 a/b", None, "7%"], "shop": [7, 8, None], "on": [day(1).date()] * 3}
    table = FIRST
    for name, values in kinds.items():
        table = table.append_column(name, pa.array(values))
    made.append(table, partition_by=list(kinds))
    assert version_rows(made.source(), tmp_path).select(list(kinds)).to_pydict() == kinds


def with_deletion_vector(made: Delta, *deleted: int) -> None:
    """Delete rows of the only file by a deletion vector, as Spark does: the log of its protocol, a
    bitmap in the log. deltalake reads such tables and writes none.
    """
    (log,) = sorted((Path(made.place) / "_delta_log").glob("*.json"))
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    add = next(action["add"] for action in actions if "add" in action)
    for action in actions:
        if "protocol" in action:
            action["protocol"] = {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": ["deletionVectors"],
                "writerFeatures": ["deletionVectors"],
            }
    log.write_text("\n".join(map(json.dumps, actions)))
    raw = bitmap(deleted)
    vector = {
        "storageType": "i",
        "pathOrInlineDv": z85(raw),
        "sizeInBytes": len(raw),
        "cardinality": len(deleted),
    }
    remove = {"path": add["path"], "deletionTimestamp": 1, "dataChange": True}
    commit = [{"remove": remove}, {"add": {**add, "deletionVector": vector}}]
    log.with_name(f"{1:020d}.json").write_text("\n".join(map(json.dumps, commit)))


def bitmap(numbers: tuple[int, ...]) -> bytes:
    """A RoaringTreemap of one array container, with Delta's magic number."""
    import struct

    container = struct.pack("<IIHHI", 12346, 1, 0, len(numbers) - 1, 16) + struct.pack(
        f"<{len(numbers)}H", *numbers
    )
    raw = struct.pack("<IQI", 1681511377, 1, 0) + container
    return raw + b"\0" * (-len(raw) % 4)


def z85(raw: bytes) -> str:
    """ZeroMQ's base 85."""
    import base64
    import string

    ours = string.digits + string.ascii_letters + "!#$%&()*+-;<=>?@^_`{|}~"
    z85s = (
        string.digits + string.ascii_lowercase + string.ascii_uppercase + ".-:+=^!/*?&<>()[]{}@%$#"
    )
    # Python's alphabet has the upper case first
    ours = string.digits + string.ascii_uppercase + string.ascii_lowercase + ours[62:]
    return base64.b85encode(raw).decode().translate(str.maketrans(ours, z85s))


def test_deletion_vectors_of_a_delta_table_are_applied(tmp_path):
    """Rows that a vector deletes are not served, though their file is current; what is written of
    them meanwhile is gone with the job, and a pickled copy does not take it away.
    """
    made = Delta(tmp_path)
    made.append(FIRST)
    with_deletion_vector(made, 0, 2)
    store = repository(tmp_path, made.source())
    assert joined(store, 1, 2, 3) == [None, 2.0, None]
    assert online(store, 1, 2, 3) == [None, 2.0, None]
    table = Places(tmp_path, tmp_path).place(made.source()).table
    (kept,) = tmp_path.glob("adc-table-*/*.parquet")
    pickle.loads(pickle.dumps(table))  # gone at once
    assert kept.exists()
    del table
    assert not kept.exists()


def test_features_of_delta_tables_that_are_not_read_are_refused(tmp_path):
    """Columns under other names in the files would be read as missing."""
    from deltalake import write_deltalake

    made = Delta(tmp_path)
    write_deltalake(made.place, FIRST, configuration={"delta.appendOnly": "true"})
    log = Path(made.place) / "_delta_log" / f"{0:020d}.json"
    log.write_text(
        log.read_text()
        .replace("delta.appendOnly", "delta.columnMapping.mode")
        .replace('"true"', '"name"')
    )
    with pytest.raises(InputError, match="columnMapping"):
        Places(tmp_path).place(made.source())


# ---- Iceberg


def test_a_renamed_column_of_an_iceberg_table_is_one_column(tmp_path):
    """Columns are told by their ids: a new column under an old name has none of its values."""
    from pyiceberg.types import DoubleType

    made = Iceberg(tmp_path)
    made.append(FIRST.append_column("old", pa.array([10.0, 20.0, 30.0])))
    with made._table.update_schema() as change:
        change.rename_column("v", "was_v")
        change.rename_column("old", "v")
    with made._table.update_schema() as change:
        change.add_column("old", DoubleType())
    found = version_rows(made.source(), tmp_path)
    assert found["v"].to_pylist() == [10.0, 20.0, 30.0]
    assert found["old"].to_pylist() == [None] * 3
    assert found["was_v"].to_pylist() == [1.0, 2.0, 3.0]


def test_an_iceberg_table_is_read_by_its_metadata(tmp_path):
    """A source whose path is a metadata file reads what is current by that file, without a
    catalog.
    """
    from feast import FileSource

    made = Iceberg(tmp_path)
    made.append(FIRST)
    old = made._table.metadata_location
    made.delete("id = 2")
    new = made._table.metadata_location
    for place, want in ((old, [1.0, 2.0]), (new, [1.0, None])):
        source = FileSource(name="s", path=place, timestamp_field="event_timestamp")
        folder = tmp_path / str(len(place + str(want)))
        folder.mkdir()
        assert joined(repository(folder, source), 1, 2) == want


@pytest.mark.parametrize("equality", [False, True])
def test_delete_files_of_an_iceberg_table_are_applied_or_refused(tmp_path, equality):
    """Rows that are deleted by position are not served; deletes by value, which pyiceberg does not
    read, are refused by name.
    """
    from feast import FileSource
    from iceberg_deletes import with_deleted

    made = Iceberg(tmp_path)
    made.append(FIRST)
    place = with_deleted(made._table, tmp_path, 0, 2, equality=equality)
    source = FileSource(name="s", path=place, timestamp_field="event_timestamp")
    if equality:
        with pytest.raises(InputError, match="equality deletes"):
            Places(tmp_path).place(source)
    else:
        assert joined(repository(tmp_path, source), 1, 2, 3) == [None, 2.0, None]
