"""Score candidates of one request as training would have scored them. Reads: a promoted pair, online features. Writes: scores.

A request becomes the same TrainingFrame that a point-in-time join would have made of it, so everything that ages is derived at
`now` by the code that derives it at row time. The user is read once and stands for all candidates.

Legend: N candidates, L positions.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from adc_features.artifact import read_manifest
from adc_features.errors import GenerationMismatch, InputError
from adc_features.rows import TIME, sid_table
from adc_features.sids import SidTimeline, list_matrix
from adc_features.spec import NO_CODE
from adc_features.store import OnlineReader, open_reader
from adc_features.store.definitions import id_type, statistics_schemas
from adc_features.store.repository import LiveGeneration, live_generation, service_name, statistics_path
from training.frame import TrainingFrame
from training.inputs import ID_COLUMNS, ITEM_COLUMNS, KINDS, RECENT_COLUMNS, USER_COLUMNS
from training.promotion import Promotion, check_promotion
from training.rankers import Ranker
from training.recipes import Sources, recipe_inputs
from training.train import Trained, load_trained

ID_LENGTH = 256
"""Characters of the longest id: text arrays are as wide as their longest value."""

_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
FEATURES_READ = {
    "item_id": ({name.rpartition(" ")[2] for name in ITEM_COLUMNS} | {*ID_COLUMNS, *KINDS}) - {"user_id", "item_id"},
    "user_id": {name.rpartition(" ")[2] for name in USER_COLUMNS} | {*RECENT_COLUMNS},
}
"""Features that every ranker reads, by the key that they belong to."""


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
    ranker: Ranker
    reader: OnlineReader
    live: LiveGeneration | None
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
        for ids of the wrong type, and when the online features hold events that lie after `now`; GenerationMismatch when the repository
        was replaced by one with other codes under the generation's id.
        """
        items, asker = self.ids("item_id", item_ids), self.ids("user_id", [user_id])
        clock, seconds = _Laps(), {}
        who = self.reader.read(user_ids=asker)
        seconds["user"] = clock.lap()
        recent = _recent_ids(who, items.dtype) if self.live else items[:0]
        rows = self.reader.read(item_ids=np.concatenate([items, recent]))  # one read: both sides of a match from one state
        if self.live and live_generation(self.promotion.repository, self.live.id) != self.live:
            raise GenerationMismatch(
                f"generation {self.live.id!r} of {self.promotion.repository} was replaced while it served; promote a ranker that was trained on it"
            )
        seconds["items"] = clock.lap()
        offered, sids = rows.slice(0, len(items)), None
        known = offered["item_profile_found"].to_numpy()
        coded = np.zeros(len(items), bool)
        if self.live:
            known = known | offered["sid_found"].to_numpy()
            coded = list_matrix(offered["sid"], self.live.length, np.int32).max(axis=1) > NO_CODE
            sids = self._timeline(rows.slice(len(items)) if len(recent) else rows.slice(0, 1))
        user = self._frame(who, user_id, item_ids[0], now)
        frame = self._frame(offered, user_id, item_ids[0], now)
        inputs = recipe_inputs(frame, self.trained.recipe, self.trained.encoder, Sources(sids=sids), user=user)
        seconds["inputs"] = clock.lap()
        score = self.ranker.predict(inputs)
        seconds["model"] = clock.lap()
        return Ranking(score, known, coded, bool(who["user_activity_found"][0].as_py()), seconds)

    def _timeline(self, rows: pa.Table) -> SidTimeline:
        """The codes of the user's recent items, as served now; valid at every time that a request may have."""
        live = cast(LiveGeneration, self.live)
        return SidTimeline([sid_table(rows, generation=live.id, codebook_size=live.codebook_size, length=live.length, as_of=_ALWAYS)], [_ALWAYS])

    def _frame(self, features: pa.Table, user_id: Any, item_id: Any, now: datetime) -> TrainingFrame:
        """A frame of the features as known at `now`; the id that they do not hold is the same in every row."""
        rows = len(features)
        columns = dict(zip(features.column_names, features.columns, strict=True))
        constants = {"user_id": user_id, "item_id": item_id, "event_timestamp": pa.scalar(now, TIME), "label": pa.scalar(0.0, pa.float32())}
        table = pa.table({"row_id": pa.array(np.arange(rows)), **{name: pa.repeat(value, rows) for name, value in constants.items()}, **columns})
        generation, size = (self.live.id, self.live.codebook_size) if self.live and "sid" in table.column_names else (None, 0)
        try:
            return TrainingFrame(table, generation, size, self.resolution)
        except InputError as error:
            raise InputError(
                f"now is {now.isoformat()}, the online features hold later events; ask as of a later time, or materialize as of this one"
            ) from error


def open_bundle(promotion: Promotion) -> Bundle:
    """Load a promoted pair, check that it fits together and score once, so that the first request is as fast as the rest.

    Raises what check_promotion raises, and InputError when the repository's service lacks a feature that the ranker reads.
    """
    check_promotion(promotion)
    trained = load_trained(promotion.ranker, generation=promotion.known_as or promotion.generation)
    schemas = statistics_schemas(promotion.repository)
    if missing := {"item_profile", "user_activity"} - set(schemas):
        raise InputError(f"{promotion.repository} has no {sorted(missing)}, which every ranker reads; publish and materialize statistics first")
    bundle = Bundle(
        promotion=promotion,
        trained=trained,
        ranker=next(iter(trained.rankers.values())),  # metrics are those of single rankers, so one seed's is served
        reader=open_reader(promotion.repository, service=service_name(promotion.generation)),
        live=live_generation(promotion.repository, promotion.generation) if promotion.generation else None,
        resolution=timedelta(seconds=read_manifest(statistics_path(promotion.repository))["resolution_seconds"]),
        id_types={"item_id": id_type(schemas["item_profile"], "item_id"), "user_id": id_type(schemas["user_activity"], "user_id")},
    )
    for key in ("item_id", "user_id"):
        offered = bundle.reader.read(**{f"{key}s": bundle.ids(key, [])})
        if lacking := sorted(FEATURES_READ[key] - set(offered.column_names)):
            raise InputError(f"the ranker reads {lacking}, which the statistics of {promotion.repository} lack; publish them, then apply and materialize")
    nobody = {key: "nobody" if kind == "string" else -1 for key, kind in bundle.id_types.items()}
    bundle.score(nobody["user_id"], [nobody["item_id"]], now=datetime.now(UTC))
    return bundle


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
