"""A small feed whose ranker serves and whose answers are logged."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feed_world import DAYS, DEFINITIONS, START, make_feed
from pydantic_core import from_json, to_json

from adc_features.served.log import LogSettings, ServedLog
from adc_features.serving.declared import DeclaredBundle, open_declared
from adc_features.serving.promotion import trained_pair
from adc_features.serving.protocol import ServiceSettings
from adc_features.serving.service import Service
from adc_features.serving.workspace import Workspace
from adc_features.store.services.schema import declared_rankers
from training.ranker.fitting import TrainSettings, fit_ranker
from training.ranker.joined import join_labels
from training.ranker.splits import split_labels

END = START + timedelta(days=DAYS)
ON_DEMAND = """
from feast.on_demand_feature_view import OnDemandFeatureView


def worth(inputs):
    return {"worth": [FACTOR * (q or 0.0) for q in inputs["quality"]]}


shelf = OnDemandFeatureView(
    name="shelf", sources=[stock[["quality"]]], schema=[Field(name="worth", dtype=Float64)],
    mode="python", udf=worth, udf_string="FACTOR * quality",
)
feed_v1 = FeatureService(name="feed_v1", features=[profile, stock, affinity, shelf])
"""
RANKERS = """
from adc_features.inputs.declaration import Ranker, Task, category, infer

small = Ranker(
    name="small", service="feed_v1", user=["customer_id"], item=["sku"], request="request_id",
    inputs=infer() | {"device": category(request=True)}, model="xgboost",
    tasks=[Task("click"),
           Task("purchase", known_at="bought_at", delay="3d", given="click", weight=0.3)],
)
"""


def definitions(factor: float = 2.0) -> str:
    """The shop's views, one of them computed on demand with this factor."""
    return DEFINITIONS + ON_DEMAND.replace("FACTOR", str(factor))


def apply_views(folder: Path, *, materialize: bool = False) -> None:
    """As `feast apply` and `feast materialize` do."""
    from feast import Entity, FeatureService, FeatureStore, FeatureView
    from feast.on_demand_feature_view import OnDemandFeatureView

    path = folder / "definitions.py"
    found: dict[str, Any] = {"__file__": str(path)}
    exec(path.read_text(encoding="utf-8"), found)
    store = FeatureStore(repo_path=str(folder))
    kinds = (Entity, FeatureService, FeatureView, OnDemandFeatureView)
    store.apply([thing for thing in found.values() if isinstance(thing, kinds)])
    if materialize:
        store.materialize(START - timedelta(days=1), END)


@dataclass(frozen=True)
class SmallFeed:
    """The repository, its ranker as it serves, and what was shown: a dict for each request."""

    repo: Path
    bundle: DeclaredBundle
    shown: Sequence[dict[str, Any]]

    @property
    def labels(self) -> Path:
        """What the shop logged itself."""
        return self.repo / "events.parquet"

    def serve(self, log: ServedLog, shown: Sequence[dict[str, Any]] | None = None) -> None:
        """Answer requests as of their times, and log them."""
        for one in self.shown if shown is None else shown:
            service = Service(
                self.bundle, ServiceSettings(), clock=lambda at=one["at"]: at, served=log
            )
            asked = {name: one[name] for name in ("user", "items", "request", "request_id")}
            answer = service.rank(self.bundle, to_json(asked | {"k": one.get("k")}))
            assert from_json(answer.body)["request_id"] == one["request_id"]
            if answer.served is not None:
                log.offer(answer.served)

    def log(self, directory: Path, **settings: Any) -> Path:
        """A log of all requests."""
        kept = ServedLog(directory, LogSettings(**settings))
        self.serve(kept)
        kept.close()
        return directory


def open_small_feed(folder: Path, *, rows: int = 1_600) -> SmallFeed:
    """Make, apply, materialize, train one ranker on what the shop logged itself."""
    feed = make_feed(
        folder,
        rows=rows,
        customers=40,
        products=30,
        definitions=definitions(),
        rankers=RANKERS,
    )
    _without_ties(folder / "affinity.parquet", ["customer_id", "sku"])
    apply_views(folder, materialize=True)
    joined = join_labels(folder, declared_rankers(folder)["small"], feed.labels)
    splits = split_labels(joined.log)
    trained = fit_ranker(
        joined, splits.train, TrainSettings(seeds=1, quick=True), validation=splits.validation
    )
    version = Workspace(folder, "small").version(END)
    trained.save(version, reference=joined.reference)
    bundle = open_declared(trained_pair(folder, version, at=END))
    return SmallFeed(folder, bundle, shown_in(feed.labels))


def _without_ties(path: Path, keys: list[str]) -> None:
    """Keep one row of each key: of two at one time, stores may choose either."""
    rows = {tuple(row[key] for key in keys): row for row in pq.read_table(path).to_pylist()}
    pq.write_table(pa.Table.from_pylist(list(rows.values()), pq.read_schema(path)), path)


def shown_in(labels: Path) -> list[dict[str, Any]]:
    """The requests that a label log tells of, by time."""
    requests: dict[str, dict[str, Any]] = {}
    for row in pq.read_table(labels).to_pylist():
        one = requests.setdefault(
            row["request_id"],
            {
                "request_id": row["request_id"],
                "user": row["customer_id"],
                "items": [],
                "request": {"device": row["device"]},
                "at": row["event_timestamp"].astimezone(UTC),
            },
        )
        one["items"].append(row["sku"])
    return list(requests.values())


def outcomes(labels: Path, *, after: timedelta = timedelta(minutes=5)) -> pa.Table:
    """What came of a label log as events: impressions at once, clicks after a while, purchases
    when they were."""
    found: list[dict[str, Any]] = []
    for row in pq.read_table(labels).to_pylist():
        keys = {"request_id": row["request_id"], "sku": row["sku"]}
        at = row["event_timestamp"]
        found.append(keys | {"event": "impression", "event_timestamp": at})
        if row["click"]:
            found.append(keys | {"event": "click", "event_timestamp": at + after})
        if row["purchase"]:
            found.append(keys | {"event": "purchase", "event_timestamp": row["bought_at"]})
    return pa.Table.from_pylist(
        [{"event_id": f"e{n}", **event} for n, event in enumerate(found)],
        pa.schema(
            {
                "event_id": pa.string(),
                "request_id": pa.string(),
                "sku": pa.int64(),
                "event": pa.string(),
                "event_timestamp": pa.timestamp("us", "UTC"),
            }
        ),
    )


def at(day: int) -> datetime:
    """A day of the shop."""
    return START + timedelta(days=day)
