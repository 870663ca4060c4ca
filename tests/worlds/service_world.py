"""A shop's own Feast repository: entities, keys and views that are not ours, applied by Feast."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CONFIG = """\
project: shop
provider: local
registry:
  path: registry.db
  enable_online_feature_view_versioning: true
offline_store:
  type: duckdb
online_store:
  type: sqlite
  path: online.db
entity_key_serialization_version: 3
"""

DAY = datetime(2026, 1, 1, tzinfo=UTC)
HISTORY = {"adc.kind": "history", "adc.group": "recent"}
SID_TAGS = {"managed_by": "adc_features", "generation": "g1", "codebook_hash": "c0de"}
FIELDS: dict[str, list[tuple[str, str, dict[str, str]]]] = {
    "profile": [
        ("segment", "String", {"adc.min_count": "5", "adc.gate": "true"}),
        ("country", "String", {}),
        ("joined", "UnixTimestamp", {}),
        ("vip", "Bool", {}),
    ],
    "stock": [
        ("price", "Float32", {"adc.log": "true", "adc.bins": "8"}),
        ("labels", "Array(String)", {}),
        ("vector", "Array(Float32)", {}),
        ("sheet", "Map", {}),
    ],
    "affinity": [("score", "Float64", {})],
    "recent": [
        ("skus", "Array(Int64)", HISTORY),
        ("at", "Array(UnixTimestamp)", HISTORY),
        ("stars", "Array(Float32)", HISTORY),
    ],
    "calendar": [("holiday", "Bool", {})],
    "codes": [
        ("sid", "Array(Int32)", SID_TAGS),
        ("sid_weight", "Array(Float32)", SID_TAGS),
        ("reliability", "Float32", SID_TAGS),
    ],
}
KEYS = {
    "profile": ["customer"],
    "stock": ["product"],
    "affinity": ["customer", "product"],
    "recent": ["customer"],
    "calendar": [],
    "codes": ["product"],
}
KEY_OF = {"customer": ("customer_id", "String"), "product": ("sku", "Int64")}


def feast_type(text: str) -> Any:
    """The Feast type that is written so."""
    from feast import types

    return eval(text, vars(types))


@dataclass
class Shop:
    """What is declared; tests change it and apply again."""

    folder: Path
    fields: dict[str, list[tuple[str, str, dict[str, str]]]] = field(
        default_factory=lambda: {view: list(fields) for view, fields in FIELDS.items()}
    )
    keys: dict[str, list[str]] = field(default_factory=lambda: dict(KEYS))
    key_of: dict[str, tuple[str, str]] = field(default_factory=lambda: dict(KEY_OF))
    view_tags: dict[str, dict[str, str]] = field(default_factory=lambda: {"codes": SID_TAGS})
    ttl: dict[str, timedelta] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    service: list[str] = field(default_factory=lambda: [*FIELDS, "ratio", "bought"])
    ratio: str = "ratio"
    aliases: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "feature_store.yaml").write_text(CONFIG)

    def views(self) -> dict[str, Any]:
        """All views by name."""
        from feast import Entity, FeatureView, Field, FileSource
        from feast.data_source import PushSource, RequestSource
        from feast.labeling.label_view import LabelView

        entities = {
            name: Entity(name=name, join_keys=[key], value_type=feast_type(kind).to_value_type())
            for name, (key, kind) in self.key_of.items()
        }
        made: dict[str, Any] = {}
        for name, fields in self.fields.items():
            keys = [self.key_of[e] for e in self.keys[name]]
            schema = [(key, kind, {}) for key, kind in keys] + fields
            path = self.folder / self.files.get(name, f"{name}.parquet")
            _write(path, schema)
            made[name] = FeatureView(
                name=name,
                entities=[entities[e] for e in self.keys[name]],
                schema=[
                    Field(
                        name=n,
                        dtype=feast_type(kind),
                        tags=tags,
                        vector_length=4 if n == "vector" else 0,
                    )
                    for n, kind, tags in schema
                ],
                source=FileSource(name=name, path=str(path), timestamp_field="event_timestamp"),
                ttl=self.ttl.get(name, timedelta(0)),
                tags=self.view_tags.get(name, {}),
            )
        request = RequestSource(
            name="ask", schema=[Field(name="budget", dtype=feast_type("Float64"))]
        )
        made["ratio"] = on_demand(self.ratio)(made["stock"][["price"]], request)
        keys = [Field(name=k, dtype=feast_type(t)) for k, t in self.key_of.values()]
        made["bought"] = LabelView(
            name="bought",
            entities=list(entities.values()),
            schema=[*keys, Field(name="bought", dtype=feast_type("Bool"))],
            source=PushSource(name="bought_push", batch_source=_label_source(self.folder, keys)),
        )
        made["entities"] = list(entities.values())
        return made

    def apply(self) -> Path:
        """As `feast apply` does: what is declared no more goes."""
        from feast import FeatureService, FeatureStore

        views = self.views()
        entities = views.pop("entities")
        chosen = []
        for name in self.service:
            view = views[name]
            if name in self.aliases:
                alias, key_map = self.aliases[name]
                view = view.with_name(alias).with_join_key_map(key_map)
            chosen.append(view)
        service = FeatureService(name="feed", features=chosen)
        store = FeatureStore(repo_path=str(self.folder))
        known = [*store.list_all_feature_views(), *store.list_feature_services()]
        declared = {*views, "feed"}
        gone = [o for o in known if o.name not in declared]
        store.apply([*entities, *views.values(), service], gone, partial=False)
        return self.folder


def on_demand(name: str) -> Any:
    """An on-demand view "ratio" with the function of this name."""
    from feast import Field
    from feast.on_demand_feature_view import OnDemandFeatureView

    def made(stock: Any, request: Any) -> Any:
        return OnDemandFeatureView(
            name="ratio",
            sources=[stock, request],
            schema=[Field(name="ratio", dtype=feast_type("Float64"))],
            mode="python",
            udf=FUNCTIONS[name][0],
            udf_string=FUNCTIONS[name][1],
        )

    return made


def ratio(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"ratio": [(p or 0.0) / (b or 1.0) for p, b in _pairs(inputs)]}


def inverse(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"ratio": [(b or 0.0) / (p or 1.0) for p, b in _pairs(inputs)]}


def _pairs(inputs: dict[str, Any]) -> Any:
    return zip(inputs["price"], inputs["budget"], strict=True)


FUNCTIONS = {
    "ratio": (ratio, "price / budget\n"),
    "ratio, other line ends": (ratio, "price / budget\r\n"),
    "inverse": (inverse, "budget / price\n"),
}


def _write(path: Path, schema: list[tuple[str, str, dict[str, str]]]) -> None:
    from feast.types import from_feast_to_pyarrow_type

    columns = {n: pa.nulls(1, from_feast_to_pyarrow_type(feast_type(t))) for n, t, _ in schema}
    pq.write_table(pa.table({**columns, "event_timestamp": [DAY]}), path)


def _label_source(folder: Path, keys: list[Any]) -> Any:
    from feast import FileSource

    path = folder / "bought.parquet"
    schema = [(k.name, str(k.dtype), {}) for k in keys]
    _write(path, [*schema, ("bought", "Bool", {})])
    return FileSource(name="bought_rows", path=str(path), timestamp_field="event_timestamp")
