"""Score candidates of one request as training would have scored them. Reads: a promoted pair,
online features. Writes: scores.

A request becomes a Frame, as a point-in-time join would have made it, so everything that ages is
derived at `now` by the code that derives it at row time. The user is read once and stands for all
candidates. Codes come from the packed snapshots, which equal the join of what was published; all
other features from the online store.

Legend: N candidates, L positions.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self, cast

import numpy as np
import pyarrow as pa

from adc_features.artifact import read_manifest
from adc_features.clock import instant, utc
from adc_features.codes.spec import NO_CODE
from adc_features.errors import GenerationMismatch, InputError, RequestError
from adc_features.loader.frame import LAST_EVENT_COLUMNS, refuse_later_events
from adc_features.ranking.legacy.trained import LegacyTrained
from adc_features.ranking.trained import Trained, load_trained
from adc_features.serving.promotion import Promotion, check_promotion
from adc_features.serving.protocol import RankRequest
from adc_features.serving.ranked import Ranked
from adc_features.serving.request_frame import RequestFrame
from adc_features.store import OnlineReader, OnlineSids, open_reader
from adc_features.store.definitions import id_type, statistics_schemas
from adc_features.store.packed.timeline import PackedTimeline
from adc_features.store.repository import (
    LiveGeneration,
    live_generation,
    service_name,
    statistics_path,
)

ID_LENGTH = 256
"""Characters of the longest id: text arrays are as wide as their longest value."""


class Ranking(NamedTuple):
    """The scores of one request.

    Attributes
    ----------
    score : ndarray
        P(label = 1), float32 [N], in the order asked.
    known, coded : ndarray
        bool [N]: the item was found online; it has a code.
    user_known : bool
        The user was found online.
    seconds : dict of str to float
        Wall time by part.
    explained : dict, optional
        Why the best candidate scored as it did, where that was asked.
    """

    score: np.ndarray
    known: np.ndarray
    coded: np.ndarray
    user_known: bool
    seconds: dict[str, float]
    explained: dict[str, Any] | None = None


@dataclass(frozen=True)
class Bundle:
    """A ranker, the codes it was trained on and a reader of online features.

    It is what one request uses from its start to its end; `open_recipe` makes one.

    Attributes
    ----------
    promotion : Promotion
        The pair that was opened.
    trained : Trained or LegacyTrained
        The recipe and its rankers, of which the first seed's serves: metrics are those of single
        rankers.
    reader : OnlineReader
        Statistics of users and items.
    sids : OnlineSids or None
        Codes as published; None for a ranker without codes.
    live : LiveGeneration or None
        The generation of the codes.
    resolution : timedelta
        Of event times in the statistics.
    id_types : dict of str to str
        "item_id" and "user_id" -> "string" or "int64".

    Examples
    --------
    >>> from adc_features.serving import open_bundle
    >>> bundle = open_bundle(pair)
    >>> ranking = bundle.score("u1", ["i00", "i01", "unknown"], now=now)
    >>> ranking.score.shape, ranking.known.tolist()
    ((3,), [True, True, False])
    """

    promotion: Promotion
    trained: Trained | LegacyTrained
    reader: OnlineReader
    sids: OnlineSids | None
    live: LiveGeneration | None
    resolution: timedelta
    id_types: dict[str, str]

    def ids(self, key: str, values: Sequence[Any]) -> np.ndarray:
        """Ids as the catalogue has them.

        Parameters
        ----------
        key : str
            "item_id" or "user_id".
        values : sequence of str or int
            N ids of a request.

        Returns
        -------
        ndarray
            int64 or str [N].

        Raises
        ------
        RequestError
            Ids of another type, too large or unreadable ones.
        """
        wanted = self.id_types[key]
        if set(map(type, values)) - {str if wanted == "string" else int}:
            raise RequestError(
                f"{key} holds {' and '.join(sorted(t.__name__ for t in set(map(type, values))))};"
                f" this catalogue's are all {wanted}"
            )
        if wanted == "int64":
            try:
                return np.array(values, np.int64)
            except OverflowError as error:
                raise RequestError(
                    f"a {key} lies outside 64 bits; give ids of this catalogue"
                ) from error
        if max(map(len, values), default=0) > ID_LENGTH or any(
            map("\0".__eq__, map(_last, values))
        ):
            raise RequestError(
                f"a {key} is longer than {ID_LENGTH} characters or ends with a null character; give"
                " ids of this catalogue"
            )
        return np.array(values, np.str_)

    def score(
        self, user_id: Any, item_ids: Sequence[Any], *, now: datetime, explain: bool = False
    ) -> Ranking:
        """Score candidates for one user.

        An unknown item is scored as what it is, an item of no statistics and no codes, and marked;
        so is an unknown user.

        Parameters
        ----------
        user_id : str or int
            As the catalogue has it.
        item_ids : sequence of str or int
            N candidates.
        now : datetime
            Aware: the time as of which features age and codes are read.
        explain : bool
            Say what was served of the best candidate, and what each group of inputs contributed.

        Returns
        -------
        Ranking
            In the order asked.

        Raises
        ------
        RequestError
            Ids of the wrong type, or online features that hold events later than `now`; explain,
            of a ranker of the former format.
        ArtifactError
            The online store is gone, empty or behind.
        GenerationMismatch
            The repository was replaced by one with other codes under the generation's id.
        """
        now = utc(now, name="now")
        if explain and isinstance(self.trained, LegacyTrained):
            raise RequestError(
                f"this ranker of {self.recipe_name!r} was trained by an older version and cannot be"
                " explained; train and promote it again"
            )
        self.check_online()
        return self._scored(user_id, item_ids, now=now, explain=explain)

    @property
    def recipe_name(self) -> str:
        """The recipe, as answers name it."""
        return self.trained.recipe.name

    def rank(self, asked: RankRequest, *, now: datetime) -> Ranked:
        """`score` for a request to the service.

        Parameters
        ----------
        asked : RankRequest
            As it was sent; user and items are ids.
        now : datetime
            Aware: the time as of which features age and codes are read.

        Raises
        ------
        RequestError
            Objects of keys or fields of the request, which this ranker does not read; and as
            `score`.
        """
        if isinstance(asked.user, dict) or any(isinstance(item, dict) for item in asked.items):
            raise RequestError("user and items are objects; this ranker takes ids alone")
        if asked.request:
            raise RequestError(
                f"request has {sorted(asked.request)[:3]}; this ranker reads no field of a request"
            )
        distinct = list(dict.fromkeys(asked.items))
        ranking = self.score(asked.user, distinct, now=now, explain=asked.explain)
        columns = {
            "item_id": distinct,
            "score": ranking.score,
            "known": ranking.known,
            "coded": ranking.coded,
        }
        repeated = len(asked.items) - len(distinct)
        return Ranked(
            ranking.score,
            columns,
            {} if ranking.explained is None else {"explained": ranking.explained},
            ranking.known,
            ranking.coded,
            ranking.user_known,
            repeated,
            ranking.seconds,
        )

    def items(self) -> Self:
        """Itself: it reads features of items."""
        return self

    def changed(self) -> tuple[str, ...]:
        """Nothing: what it reads is checked with every request."""
        return ()

    def shown(self, rows: pa.Table, features: list[str]) -> dict[str, list[Any]]:
        """What the service answers of `lookup`'s rows: found, codes, the features asked for.

        Parameters
        ----------
        rows : pyarrow.Table
            Of `lookup`.
        features : list of str
            Names of item features.
        """
        found, shown = "item_profile_found", list[str]()
        if self.live:
            found, shown = "sid_found", ["sid", "sid_weight", "reliability", "is_cold"]
        return {
            "found": rows[found].to_pylist(),
            **{name: rows[name].to_pylist() for name in (*shown, *features)},
        }

    def check_online(self) -> None:
        """Check that what was put online is there: without it, every user and item would pass for
        unknown.

        Raises
        ------
        ArtifactError
            The online store is gone, empty or behind.
        """
        self.reader.check()

    def _scored(
        self, user_id: Any, item_ids: Sequence[Any], *, now: datetime, explain: bool = False
    ) -> Ranking:
        items, asker = self.ids("item_id", item_ids), self.ids("user_id", [user_id])
        clock, seconds = _Stopwatch(), {}
        user = self._frame("user_id", asker, now)
        seconds["user"] = clock.lap()
        offered = self._frame("item_id", items, now)
        known, coded, timeline = offered.known, np.zeros(len(items), bool), None
        if self.live:
            timeline = self.timeline()  # one state for both sides of a match
            offered.coded = timeline.gather(items, offered.times)
            if timeline.has_second:
                offered.second = timeline.gather_second(items, offered.times)
            coded = offered.coded[0].max(axis=1) > NO_CODE
            if timeline.overlay is not None:  # of an item that came since there are codes alone
                known = (known | coded) & ~timeline.removed(items, offered.times)
        seconds["items"] = clock.lap()
        asked = self.trained.request(user, offered, timeline)
        seconds["inputs"] = clock.lap()
        score = self.trained.scored(asked)  # type: ignore[arg-type] # what its own request made
        seconds["model"] = clock.lap()
        told = None
        if explain and isinstance(self.trained, Trained):
            best = int(np.argmax(score))
            found = self.trained.explained(user, offered, timeline, row=best)
            told = {"item_id": item_ids[best], **found.to_dict()}
        return Ranking(score, known, coded, bool(user.known[0]), seconds, told)

    def timeline(self) -> PackedTimeline:
        """The snapshots of the ranker's generation as published now.

        Raises
        ------
        GenerationMismatch
            They hold codes of another codebook.
        """
        live, timeline = cast(LiveGeneration, self.live), cast(OnlineSids, self.sids).timeline()
        if (
            live_generation(self.promotion.repository, live.id) != live
            or timeline.snapshots[0].codebook_hash != live.codebook_hash
        ):
            raise GenerationMismatch(
                f"generation {live.id!r} of {self.promotion.repository} was replaced while it"
                " served; promote a ranker that was trained on it"
            )
        return timeline

    def lookup(self, item_ids: Sequence[Any], *, now: datetime) -> pa.Table:
        """Codes and features of items.

        Parameters
        ----------
        item_ids : sequence of str or int
            N ids, repeats allowed.
        now : datetime
            Aware: the time as of which codes are read.

        Returns
        -------
        pyarrow.Table, N rows
            In the order asked: `item_id`, found columns, features; see `OnlineReader.read`.

        Raises
        ------
        RequestError, ArtifactError, GenerationMismatch
            As `score`.
        """
        items, now = self.ids("item_id", item_ids), utc(now, name="now")
        self.check_online()
        rows = self.reader.read(item_ids=items)
        if self.live is None:
            return rows
        codes = self.timeline().at(now).features(items)
        return pa.table(
            dict(
                zip(
                    [*codes.column_names, *rows.column_names],
                    [*codes.columns, *rows.columns],
                    strict=True,
                )
            )
        )

    def _frame(self, key: str, ids: np.ndarray, now: datetime) -> RequestFrame:
        columns = self.reader.columns(self.trained.reads(key), key=key, ids=ids)
        frame = RequestFrame(
            {key: ids},
            columns,
            np.full(len(ids), instant(now)),
            self.live.id if self.live else None,
        )
        last = {name: frame.numbers(name) for name in LAST_EVENT_COLUMNS if name in columns}
        try:
            refuse_later_events(
                {
                    name: np.where(at >= 0, at, np.nan).astype("datetime64[us]")
                    for name, at in last.items()
                },
                frame.times,
                self.resolution,
            )
        except InputError as error:
            raise RequestError(
                f"now is {now.isoformat()}, the online features hold later events; ask as of a"
                " later time, or materialize as of this one"
            ) from error
        return frame


def open_recipe(promotion: Promotion) -> Bundle:
    """Open a promoted pair of a run, see `opening.open_bundle`."""
    check_promotion(promotion)
    trained = load_trained(promotion.ranker, generation=promotion.known_as or promotion.generation)
    schemas = statistics_schemas(promotion.repository)
    if missing := {"item_profile", "user_activity"} - set(schemas):
        raise InputError(
            f"{promotion.repository} has no {sorted(missing)}, which every ranker reads; publish"
            " and materialize statistics first"
        )
    bundle = Bundle(
        promotion=promotion,
        trained=trained,
        reader=open_reader(promotion.repository, service=service_name(None)),
        sids=(
            OnlineSids(promotion.repository, promotion.generation) if promotion.generation else None
        ),
        live=(
            live_generation(promotion.repository, promotion.generation)
            if promotion.generation
            else None
        ),
        resolution=timedelta(
            seconds=read_manifest(statistics_path(promotion.repository))["resolution_seconds"]
        ),
        id_types={
            "item_id": id_type(schemas["item_profile"], "item_id"),
            "user_id": id_type(schemas["user_activity"], "user_id"),
        },
    )
    for key in ("item_id", "user_id"):
        reads = trained.reads(key)
        found = bundle.reader.columns(reads, key=key, ids=bundle.ids(key, []))
        if lacking := sorted(reads - set(found)):
            raise InputError(
                f"the ranker reads {lacking}, which the statistics of {promotion.repository} lack;"
                " publish them, then apply and materialize"
            )
    unknown = {key: "unknown" if kind == "string" else -1 for key, kind in bundle.id_types.items()}
    bundle._scored(unknown["user_id"], [unknown["item_id"]], now=datetime.now(UTC))
    return bundle


def _last(text: str) -> str:
    return text[-1:]


class _Stopwatch:
    """A stopwatch: seconds since it was last asked."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._since = clock, clock()

    def lap(self) -> float:
        now = self._clock()
        seconds, self._since = now - self._since, now
        return seconds
