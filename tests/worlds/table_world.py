"""Delta and Iceberg tables as their own libraries write them, and a Feast repository over one.

Rows are (id, v, day of the event).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

UTC_US = pa.timestamp("us", "UTC")
START = datetime(2026, 1, 1, tzinfo=UTC)
LATE = START + timedelta(days=99)


def day(number: int) -> datetime:
    return START + timedelta(days=number)


def rows(*lines: tuple[int, float | None, int]) -> pa.Table:
    """(id, v, day of the event)."""
    ids, values, days = zip(*lines, strict=True)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "v": pa.array(values, pa.float64()),
            "event_timestamp": pa.array([day(d) for d in days], UTC_US),
        }
    )


FIRST = rows((1, 1.0, 1), (2, 2.0, 1), (3, 3.0, 1))


class Delta:
    """A Delta table, written by deltalake."""

    kind = "Delta"

    def __init__(self, folder: Path) -> None:
        self.place = str(folder / "table")

    def source(self, **options):
        from feast import FileSource
        from feast.data_format import DeltaFormat

        return FileSource(
            name="s",
            path=self.place,
            file_format=DeltaFormat(),
            timestamp_field="event_timestamp",
            **options,
        )

    def append(self, table: pa.Table, **options) -> None:
        from deltalake import write_deltalake

        write_deltalake(self.place, table, mode="append", **options)

    def overwrite(self, table: pa.Table) -> None:
        from deltalake import write_deltalake

        write_deltalake(self.place, table, mode="overwrite")

    @property
    def _table(self):
        from deltalake import DeltaTable

        return DeltaTable(self.place)

    def delete(self, where: str) -> None:
        self._table.delete(where)

    def add_column(self, name: str) -> None:
        from deltalake import Field
        from deltalake.schema import PrimitiveType

        self._table.alter.add_columns([Field(name, PrimitiveType("long"))])

    @property
    def version(self) -> str:
        return str(self._table.version())

    def data_files(self) -> list[Path]:
        return [Path(uri) for uri in self._table.file_uris()]


class Iceberg:
    """An Iceberg table of an SQL catalog, written by pyiceberg."""

    kind = "Iceberg"

    def __init__(self, folder: Path) -> None:
        self.options = {"uri": f"sqlite:///{folder}/catalog.db"}
        self.warehouse = f"file://{folder}/warehouse"

    @property
    def _catalog(self):
        from pyiceberg.catalog import load_catalog

        return load_catalog("own", type="sql", warehouse=self.warehouse, **self.options)

    def source(self, **options):
        from adc_features.store import _compat as feast

        return feast.iceberg_source()(
            name="s",
            catalog_name="own",
            catalog_type="sql",
            warehouse=self.warehouse,
            namespace="shop",
            table="items",
            catalog_properties=self.options,
            timestamp_field="event_timestamp",
            **options,
        )

    @property
    def _table(self):
        return self._catalog.load_table("shop.items")

    def append(self, table: pa.Table) -> None:
        catalog = self._catalog
        catalog.create_namespace_if_not_exists("shop")
        catalog.create_table_if_not_exists("shop.items", schema=table.schema).append(table)

    def overwrite(self, table: pa.Table) -> None:
        self._table.overwrite(table)

    def delete(self, where: str) -> None:
        self._table.delete(where)

    def add_column(self, name: str) -> None:
        from pyiceberg.types import LongType

        with self._table.update_schema() as change:
            change.add_column(name, LongType())

    @property
    def version(self) -> str:
        return str(self._table.current_snapshot().snapshot_id)

    def data_files(self) -> list[Path]:
        tasks = self._table.scan().plan_files()
        return [Path(task.file.file_path.removeprefix("file://")) for task in tasks]


def our_stores(folder: Path):
    """A configuration with our stores and our engine."""
    from feast import RepoConfig

    return RepoConfig(
        project="tables",
        provider="local",
        registry=str(folder / "registry.db"),
        offline_store={"type": "adc_features.store.offline_store.AsofOfflineStore"},
        online_store={
            "type": "adc_features.store.online_store.LmdbOnlineStore",
            "path": str(folder / "online"),
        },
        batch_engine={"type": "adc_features.store.compute_engine.ArrowComputeEngine"},
        entity_key_serialization_version=3,
        repo_path=folder,
    )


def repository(folder: Path, source, *, more=()):
    """A store with one view `v` by `id` over the source, our stores and our engine."""
    import feast.types
    from feast import Entity, FeatureStore, FeatureView, Field, ValueType

    store = FeatureStore(config=our_stores(folder))
    entity = Entity(name="id", join_keys=["id"], value_type=ValueType.INT64)
    fields = [
        Field(name="id", dtype=feast.types.Int64),
        *(Field(name=name, dtype=getattr(feast.types, kind)) for name, kind in more),
        Field(name="v", dtype=feast.types.Float64),
    ]
    view = FeatureView(name="v", entities=[entity], schema=fields, source=source, ttl=timedelta(0))
    store.apply([entity, view])
    return FeatureStore(config=our_stores(folder))  # the source comes from the registry


def asked(*ids: int) -> pa.Table:
    return pa.table({"id": ids, "event_timestamp": pa.array([LATE] * len(ids), UTC_US)})


def joined(store, *ids: int, feature: str = "v") -> list:
    job = store.get_historical_features(asked(*ids), [f"v:{feature}"])
    return job.to_arrow()[feature].to_pylist()


def online(store, *ids: int) -> list:
    store.materialize(START, LATE)
    return store.get_online_features(["v:v"], [{"id": i} for i in ids]).to_dict()["v"]
