"""Rankers trained on the feed of a shop, whose truth is known.

Legend: n rows of the validation and test windows.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from feed_world import Feed, apply_feed, make_feed

from adc_features.inputs.resolution import resolution
from adc_features.ranking.multitask.trained import TrainedRanker, load_ranker
from adc_features.serving.declared import DeclaredBundle, open_declared
from adc_features.serving.promotion import trained_pair
from adc_features.serving.protocol import RankRequest
from adc_features.serving.workspace import Workspace
from adc_features.store.services.schema import declared_rankers
from training.ranker.fitting import TrainSettings, fit_ranker
from training.ranker.joined import JoinedRows, join_labels
from training.ranker.splits import Splits, split_labels

NOW = datetime(2026, 2, 12, tzinfo=UTC)
SETTINGS = TrainSettings(seeds=1)
RANKERS = """
from adc_features.inputs.declaration import Ranker, Task, category, infer, skip

COMMON = dict(service="feed_v1", tasks=[Task("click")], user=["customer_id"], item=["sku"],
              request="request_id", gates=["profile__segment"])
DEVICE = {"device": category(request=True)}
POSITION = {"position": category(request=True, train_only=True, default=0, min_count=1)}
OF_USERS = {name: skip() for name in (
    "profile__segment", "profile__activity", "profile__joined", "profile__recent", "customer_id",
    "affinity__visits")}
full = Ranker(name="full", inputs=infer() | DEVICE | POSITION, **COMMON)
no_position = Ranker(name="no_position", inputs=infer() | DEVICE, **COMMON)
no_user = Ranker(name="no_user", inputs=infer() | DEVICE | POSITION | OF_USERS,
                 **COMMON | {"gates": []})
no_device = Ranker(name="no_device", inputs=infer() | POSITION, **COMMON)
trees = Ranker(name="trees", inputs=infer() | DEVICE | POSITION, model="xgboost", **COMMON)
trees_no_user = Ranker(name="trees_no_user", inputs=infer() | DEVICE | POSITION | OF_USERS,
                       model="xgboost", **COMMON | {"gates": []})
"""


@dataclass(frozen=True)
class TrainedFeed:
    """The repository, its truth, and its rankers.

    versions: ranker -> trained version. joined: the log with all features. splits: its
    windows.
    """

    feed: Feed
    versions: dict[str, Path]
    joined: JoinedRows
    splits: Splits

    @property
    def repo(self) -> Path:
        """The Feast repository."""
        return self.feed.folder

    @cached_property
    def rankers(self) -> dict[str, TrainedRanker]:
        """Loaded, by name."""
        return {name: load_ranker(path) for name, path in self.versions.items()}

    @cached_property
    def later(self) -> np.ndarray:
        """Rows of the log that no ranker learned from, validation and test: int64 [n]."""
        return np.concatenate([self.splits.validation.rows, self.splits.test.rows])

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Ranker -> P(click) of the later rows, float32 [n], position at its default."""
        parts = self.joined.parts(self.later)
        return {
            name: ranker.probabilities(ranker.encoder.encode(parts))[0, 0]
            for name, ranker in self.rankers.items()
        }

    def bundle(self, name: str) -> DeclaredBundle:
        """The ranker, opened for serving."""
        return open_declared(trained_pair(self.repo, self.versions[name], at=NOW))


def rank(bundle: DeclaredBundle, user: str, items: Any, **options: Any) -> Any:
    """Ranked of a request from a phone."""
    request = options.pop("request", {"device": "phone"})
    asked = RankRequest(user=user, items=list(items), request=request)
    return bundle.rank(asked, now=options.pop("now", NOW))


def open_trained_feed(folder: Path) -> TrainedFeed:
    """Make, apply, materialize, join once, train each ranker."""
    feed = make_feed(folder, rankers=RANKERS, position_effect=0.4, cheap_first=True)
    apply_feed(folder)
    declared = declared_rankers(folder)
    joined = join_labels(folder, declared["full"], feed.labels)
    splits, versions = split_labels(joined.log), {}
    for name, ranker in declared.items():
        inputs = resolution(
            ranker, joined.schema, columns={"device": "String", "position": "Int64"}
        )
        own = replace(joined, resolution=inputs)
        trained = fit_ranker(own, splits.train, SETTINGS, validation=splits.validation)
        versions[name] = Workspace(folder, name).version(NOW)
        trained.save(versions[name], reference=joined.reference)
    return TrainedFeed(feed, versions, joined, splits)


def expected_auc(score: np.ndarray, p: np.ndarray) -> float:
    """The AUC of a score over labels drawn with probability p, without the chance of drawing them:
    each row counts p as a positive and 1 - p as a negative; ties count half."""
    _, place = np.unique(score, return_inverse=True)
    positive, negative = np.bincount(place, p), np.bincount(place, 1 - p)
    below = np.cumsum(negative) - negative
    pairs = p.sum() * (1 - p).sum()
    return float((positive * (below + negative / 2)).sum() / pairs)


def expected_gauc(score: np.ndarray, p: np.ndarray, groups: np.ndarray) -> float:
    """The mean of `expected_auc` over groups (int64 [n])."""
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    return float(np.mean([expected_auc(score[g], p[g]) for g in np.split(order, cuts)]))


@contextmanager
def feature_gone(repo: Path, view: str, feature: str) -> Iterator[None]:
    """While a feature of a view has no value in the repository's SQLite online store."""
    table = f"feed_{view}"
    with closing(sqlite3.connect(repo / "online.db")) as store:
        rows = store.execute(f"select * from {table} where feature_name = ?", [feature]).fetchall()
        assert rows
        store.execute(f"delete from {table} where feature_name = ?", [feature])
        store.commit()
        try:
            yield
        finally:
            marks = ", ".join("?" * len(rows[0]))
            store.executemany(f"insert into {table} values ({marks})", rows)
            store.commit()
