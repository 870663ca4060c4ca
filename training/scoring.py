"""Score candidates of one request as training would have scored them. Reads: a promoted pair, online features. Writes: scores.

A request becomes the same TrainingFrame that a point-in-time join would have made of it, so everything that ages is derived at
`now` by the code that derives it at row time. The user is read once and stands for all candidates.

Legend: N candidates, L positions.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from adc_features.artifact import read_manifest
from adc_features.clock import instant
from adc_features.errors import InputError
from adc_features.rows import utc_array
from adc_features.sids import SidTable, SidTimeline
from training.frame import TrainingFrame
from training.inputs import ID_COLUMNS, ITEM_COLUMNS, USER_COLUMNS
from training.promotion import Promotion, check_promotion
from training.recipes import Sources
from training.train import Trained, load_trained

ID_LENGTH = 256
"""Characters of the longest id: text arrays are as wide as their longest value."""

_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
_RECENT = ("user_recent_items", "user_recent_labels", "user_recent_residuals", "user_recent_times")
FEATURES_READ = {
    "item_id": {name.rpartition(" ")[2] for name in ITEM_COLUMNS} | {name for name in ID_COLUMNS if name.startswith("item_") and name != "item_id"},
    "user_id": {name.rpartition(" ")[2] for name in USER_COLUMNS} | {*_RECENT},
}
"""Features that every ranker reads, by the key that they belong to."""


class OnlineReader(Protocol):
    """Vectorised reads of one repository: one row per id in the order asked, repeats kept, unknown ids marked and never zeros.

    profiles, users: the statistics with `<view>_found`, as training_features names and types them; of no ids, their schema.
    codes: of the one generation that the reader was opened for.
    """

    def profiles(self, item_ids: np.ndarray) -> pa.Table: ...

    def users(self, user_ids: np.ndarray) -> pa.Table: ...

    def codes(self, item_ids: np.ndarray) -> SidTable: ...


class Ranking(NamedTuple):
    """One request's scores. score: float32 [N], probabilities in the order asked. known: bool [N], the item has online features;
    coded: bool [N], it has a code. user_known: the user has. seconds: wall time by part."""

    score: np.ndarray
    known: np.ndarray
    coded: np.ndarray
    user_known: bool
    seconds: dict[str, float]


@dataclass(frozen=True)
class Bundle:
    """A ranker, the codes it was trained on and the reader of both views: what one request uses from its start to its end."""

    promotion: Promotion
    trained: Trained
    reader: OnlineReader
    codebook_size: int
    resolution: timedelta
    id_types: dict[str, str]

    def ids(self, key: str, values: Sequence[Any]) -> np.ndarray:
        """Ids as the catalogue has them: int64 or str [N]. Raises InputError for ids of another type, too large or unreadable ones."""
        wanted = self.id_types[key]
        if set(map(type, values)) - {str if wanted == "string" else int}:
            raise InputError(f"{key} holds {' and '.join(sorted(t.__name__ for t in set(map(type, values))))}; this catalogue's are all {wanted}")
        if wanted == "int64":
            try:
                return np.array(values, np.int64)
            except OverflowError as error:
                raise InputError(f"a {key} lies outside 64 bits; give ids of this catalogue") from error
        if max(map(len, values), default=0) > ID_LENGTH or any(map("\0".__eq__, map(_last, values))):
            raise InputError(f"a {key} is longer than {ID_LENGTH} characters or ends with a null character; give ids of this catalogue")
        return np.array(values, np.str_)

    def score(self, user_id: Any, item_ids: Sequence[Any], *, now: datetime) -> Ranking:
        """Probabilities of the candidates for one user at `now` (aware).

        An unknown item is scored as what it is, an item of no statistics and no codes, and marked; so is an unknown user. Raises InputError
        for ids of the wrong type, and when the online features hold events that lie after `now`.
        """
        items, asker = self.ids("item_id", item_ids), self.ids("user_id", [user_id])
        clock, seconds = _Laps(), {}
        who = self.reader.users(asker)
        seconds["user"] = clock.lap()
        profile = self.reader.profiles(items)
        seconds["profile"] = clock.lap()
        known, sids = profile["item_profile_found"].to_numpy(), None
        coded = np.zeros(len(items), bool)
        columns: dict[str, pa.ChunkedArray | pa.Array] = dict(zip(profile.column_names, profile.columns, strict=True))
        if self.trained.generation is not None:
            recent = _recent_ids(who, items.dtype)
            codes = self.reader.codes(np.concatenate([items, recent]))  # one read: both sides from the same snapshot
            known, coded = np.logical_or(known, codes.found[: len(items)]), np.asarray((codes.sid[: len(items)] >= 0).any(axis=1))
            offered = codes.to_arrow().slice(0, len(items))
            columns |= {name: offered[name] for name in ("sid", "sid_weight", "reliability")}
            sids = SidTimeline([codes.lookup(np.unique(recent) if len(recent) else items[:1])], [_ALWAYS])
        seconds["codes"] = clock.lap()
        frame = self._frame(columns, asker, items, now)
        user = self._frame(dict(zip(who.column_names, who.columns, strict=True)), asker, items[:1], now)
        score = self.trained.predict(frame, Sources(sids=sids), user=user)[0]
        seconds["model"] = clock.lap()
        return Ranking(score, known, coded, bool(who["user_activity_found"][0].as_py()), seconds)

    def _frame(self, columns: dict[str, Any], user: np.ndarray, items: np.ndarray, now: datetime) -> TrainingFrame:
        rows = len(items)
        labels = {
            "row_id": pa.array(np.arange(rows)),
            "user_id": pa.array(user).take(pa.array(np.zeros(rows, np.int64))),
            "item_id": pa.array(items),
            "event_timestamp": utc_array(np.full(rows, instant(now))),
            "label": pa.array(np.zeros(rows, np.float32)),
        }
        generation = self.trained.generation if "sid" in columns else None
        try:
            return TrainingFrame(pa.table({**columns, **labels}), generation, self.codebook_size, self.resolution)
        except InputError as error:
            raise InputError(
                f"now is {now.isoformat()}, the online features hold later events; ask as of a later time, or materialize as of this one"
            ) from error


def open_bundle(promotion: Promotion) -> Bundle:
    """Load a promoted pair, check that it fits together and score once, so that the first request is as fast as the rest.

    Raises what check_promotion raises, and InputError when the repository's service lacks a feature that the ranker reads.
    """
    from adc_features.store.definitions import id_type, statistics_schemas
    from adc_features.store.repository import live_generation, statistics_path

    check_promotion(promotion)
    trained = load_trained(promotion.ranker, generation=promotion.generation)
    seed = next(iter(trained.rankers))
    schemas = statistics_schemas(promotion.repository)
    if missing := {"item_profile", "user_activity"} - set(schemas):
        raise InputError(f"{promotion.repository} has no {sorted(missing)}, which every ranker reads; publish and materialize statistics first")
    bundle = Bundle(
        promotion=promotion,
        trained=replace(trained, rankers={seed: trained.rankers[seed]}),  # metrics are of one seed's ranker; one is served
        reader=open_reader(promotion),
        codebook_size=live_generation(promotion.repository, promotion.generation).codebook_size if promotion.generation else 0,
        resolution=timedelta(seconds=read_manifest(statistics_path(promotion.repository))["resolution_seconds"]),
        id_types={"item_id": id_type(schemas["item_profile"], "item_id"), "user_id": id_type(schemas["user_activity"], "user_id")},
    )
    for key, read in (("item_id", bundle.reader.profiles), ("user_id", bundle.reader.users)):
        if lacking := sorted(FEATURES_READ[key] - set(read(bundle.ids(key, [])).column_names)):
            raise InputError(f"the ranker reads {lacking}, which the statistics of {promotion.repository} lack; publish them, then apply and materialize")
    nobody = {key: "" if kind == "string" else -1 for key, kind in bundle.id_types.items()}
    bundle.score(nobody["user_id"], [nobody["item_id"]], now=datetime.now(UTC))
    return bundle


def open_reader(promotion: Promotion) -> OnlineReader:
    """The reader of a pair's repository and generation."""
    return _FeastReader(promotion)


class _FeastReader:
    """Reads through Feast's client: any online store, at its speed."""

    def __init__(self, promotion: Promotion) -> None:
        from adc_features.store.registry import join_key, open_store, service_views
        from adc_features.store.repository import service_name

        self._repository, self._generation = promotion.repository, promotion.generation
        self._store = open_store(promotion.repository)
        views = service_views(self._store, service_name(promotion.generation))
        self._views = {
            "sid": [v for v in views if v.name.startswith("item_sid_")],
            "item_id": [v for v in views if join_key(v) == "item_id" and not v.name.startswith("item_sid_")],
            "user_id": [v for v in views if join_key(v) == "user_id"],
        }

    def profiles(self, item_ids: np.ndarray) -> pa.Table:
        return self._read("item_id", item_ids)

    def users(self, user_ids: np.ndarray) -> pa.Table:
        return self._read("user_id", user_ids)

    def codes(self, item_ids: np.ndarray) -> SidTable:
        from adc_features.store import lookup

        return lookup(self._repository, str(self._generation), item_ids)

    def _read(self, key: str, ids: np.ndarray) -> pa.Table:
        from adc_features.store.online import read_online

        return read_online(self._repository, self._store, self._views[key], {key: ids})


def _recent_ids(user: pa.Table, dtype: np.dtype) -> np.ndarray:
    """The user's recent items, [T]; none when the user is unknown."""
    lists = user["user_recent_items"].combine_chunks()
    values = lists.flatten().to_numpy(zero_copy_only=False)
    return values.astype(np.str_ if dtype.kind == "U" else np.int64)


def _last(text: str) -> str:
    return text[-1:]


class _Laps:
    """A stopwatch: seconds since it was last asked."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._since = clock, clock()

    def lap(self) -> float:
        now = self._clock()
        seconds, self._since = now - self._since, now
        return seconds
