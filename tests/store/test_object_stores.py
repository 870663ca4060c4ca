"""Sources, generations and snapshots on an object store, read as those on this machine."""

import os
import shutil
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_world import day, published_world
from table_world import FIRST, Delta, Iceberg, joined, online, repository, rows

from adc_features import store
from adc_features.codes.generation import open_generation, write_generation
from adc_features.codes.spec import SidSpec
from adc_features.uris import open_uri, s3_options


class DeltaOnS3(Delta):
    """Written by deltalake, with the endpoint of the environment."""

    def __init__(self, folder, bucket) -> None:
        self.place = f"{bucket}/delta/{folder.name}"

    def append(self, table, **options) -> None:
        super().append(table, storage_options=s3_options(None), **options)

    @property
    def _table(self):
        from deltalake import DeltaTable

        return DeltaTable(self.place, storage_options=s3_options(None))


class IcebergOnS3(Iceberg):
    """A catalog on this machine of tables on an object store."""

    def __init__(self, folder, bucket) -> None:
        super().__init__(folder)
        self.warehouse = f"{bucket}/iceberg/{folder.name}"
        self.options["s3.endpoint"] = os.environ["AWS_ENDPOINT_URL"]


@pytest.mark.parametrize("made", [DeltaOnS3, IcebergOnS3])
def test_a_table_on_an_object_store_is_joined_and_materialized(bucket, tmp_path, made):
    """At one version, without the rows that were deleted."""
    table = made(tmp_path, bucket)
    table.append(FIRST)
    table.append(rows((2, 20.0, 2), (4, 4.0, 2)))
    table.delete("id = 3")
    feature_store = repository(tmp_path, table.source())
    assert joined(feature_store, 1, 2, 3, 4) == [1.0, 20.0, None, 4.0]
    assert online(feature_store, 1, 2, 3, 4) == [1.0, 20.0, None, 4.0]


@pytest.mark.parametrize("named", ["environment", "source"])
def test_parquet_on_an_object_store_is_joined(bucket, s3_endpoint, tmp_path, monkeypatch, named):
    """The endpoint of a service other than AWS comes from the environment, or from the source."""
    from feast import FileSource

    options = {"s3_endpoint_override": s3_endpoint} if named == "source" else {}
    place = f"{bucket}/parquet-{named}"
    filesystem, path = open_uri(place)
    pq.write_table(FIRST, f"{path}/0.parquet", filesystem=filesystem)
    if options:
        monkeypatch.delenv("AWS_ENDPOINT_URL")
    source = FileSource(name="s", path=place, timestamp_field="event_timestamp", **options)
    assert joined(repository(tmp_path, source), 1, 3, 4) == [1.0, 3.0, None]


def copied(folder, uri: str) -> None:
    from pyarrow import fs

    filesystem, path = open_uri(uri)
    here = fs.LocalFileSystem()
    fs.copy_files(str(folder), path, source_filesystem=here, destination_filesystem=filesystem)


def test_a_generation_is_opened_by_its_address(bucket, tmp_path):
    """The same weights as from this machine."""
    made = write_generation(
        tmp_path / "g1",
        generation_id="g1",
        tokenizer="adc",
        spec=SidSpec(content={"title": 1}),
        settings={},
        tensors={"w": np.arange(6, dtype=np.float32)},
        quality={},
        trained_through=datetime(2026, 1, 1, tzinfo=UTC),
    )
    copied(tmp_path / "g1", f"{bucket}/run/generation")
    shutil.rmtree(tmp_path / "g1")
    found = open_generation(f"{bucket}/run/generation")
    assert found.codebook_hash == made.codebook_hash
    assert found.tensors["w"].tolist() == [0, 1, 2, 3, 4, 5]


def test_published_snapshots_are_looked_up_by_the_address_of_a_repository(bucket, tmp_path):
    """Codes as of each row's time are those of the repository that was copied there."""
    repo = published_world(tmp_path / "repo")
    items = np.array(["a", "b", "nobody"])
    times = np.array([day(40).replace(tzinfo=None)] * 3, "datetime64[us]")
    want = store.published_timeline(repo, "g1").gather(items, times)
    copied(repo / "data", f"{bucket}/repo/data")
    found = store.published_timeline(f"{bucket}/repo", "g1").gather(items, times)
    for ours, theirs in zip(want, found, strict=True):
        assert pa.array(ours.reshape(-1)).equals(pa.array(theirs.reshape(-1)))
