"""What is aggregated, declared once for history and stream. Reads: nothing. Writes: values.

    clicks = EventStream(
        "clicks",
        keys={"user_id": "string", "item_id": "string"},
        attributes=("brand",),
        values={"label": Grid(bits=20, bound=1.0), "rating": Grid(bits=20, bound=10.0)},
    )
    user_activity = AggregateView(
        "user_activity",
        clicks,
        key=("user_id",),
        features={
            "user_event_count": count(),
            "user_label_mean": smoothed_mean("label"),
            "user_residual_mean": residual_mean("rating", against="item_id"),
            "user_recent_items": last(20, "item_id"),
            "user_event_count_30d": count(window=timedelta(days=30), hop=timedelta(days=1)),
            "user_last_time": last_time(),
        },
    )

Values are integers on a stated grid, so that sums do not depend on the order of events. A value
that is null is no event for the aggregates of that value. What a feature reads of *other* keys (the
mean over everybody, another key's mean, a group) it reads as of a cut in the past: see `Known`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from adc_features.errors import InputError

KeyType = Literal["string", "int64"]
Known = Literal["sealed", "resolution"]
"""As of when other keys are read, by an event or row of time t.

sealed : events before floor((t - lateness) / tick) * tick. No event that is still accepted can
    change them, so a late event changes the rows of its own keys only.
resolution : an event reads the events up to t - resolution, a row those up to t. A late event then
    changes what every later event and row read, and they are computed again.
"""
UnknownItems = Literal["create", "hold", "refuse"]
"""What becomes of an event of an item that the published codes of the repository do not have.

create : it counts as any other.
hold : it counts when the item has come, at its own time, unless it is late by then.
refuse : it is refused.
"""
Kind = Literal[
    "count",
    "total",
    "mean",
    "smoothed_mean",
    "residual_mean",
    "last",
    "newest",
    "last_distinct",
    "distinct",
    "last_time",
    "first_time",
    "minimum",
    "maximum",
]
At = Literal["row", "read"]

TIME = "time"
"""The name under which `last` reads the events' times: int64 microseconds since 1970, UTC."""

RESERVED = (TIME, "event_id", "event_timestamp", "created")
MOST_BITS = 62
DAY = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)


def microseconds_of(duration: timedelta) -> int:
    """A duration as whole microseconds."""
    return duration // _MICROSECOND


@dataclass(frozen=True)
class Grid:
    """How a value is stored: the nearest multiple of 2^-bits (ties to even) in [-bound, bound].

    Parameters
    ----------
    bits : int
        Binary places. With 0 the value is a whole number (cents, for example), and totals, lists
        and extremes of it are int64; otherwise they are float32.
    bound : float
        The largest magnitude. A value beyond it is refused by name, never cut.
    optional : bool
        Whether the value may be null.
    """

    bits: int
    bound: float
    optional: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= 52:
            raise InputError(f"bits of a grid is {self.bits}; expected 0 to 52 binary places")
        if not 0 < self.bound < float("inf"):
            raise InputError(f"bound of a grid is {self.bound}; expected a number above 0")
        if self.bound * 2.0**self.bits >= 2.0**MOST_BITS:
            raise InputError(
                f"a grid of {self.bits} bits with the bound {self.bound} does not fit in 64 bits;"
                f" take fewer bits, so that bound * 2^bits stays below 2^{MOST_BITS}"
            )

    @property
    def capacity(self) -> int:
        """How many events of one key a sum holds for certain."""
        return (2**63 - 1) // max(1, int(self.bound * 2**self.bits) + 1)


@dataclass(frozen=True)
class EventStream:
    """The events that views aggregate.

    Parameters
    ----------
    name : str
    keys : mapping of str to "string" or "int64"
        Columns of ids; null is refused.
    values : mapping of str to Grid
        Columns of numbers.
    attributes : tuple of str
        Columns of text that each event carries of its item (brand, category); null is "", which
        stands for unknown. A view keyed by an attribute passes over unknown ones.
    lateness : timedelta
        How far behind the newest event an event is still accepted.
    tick : timedelta
        The step of sealed cuts.
    resolution : timedelta
        The smallest step of the time stamps: the row of history that holds the events up to t is
        valid from t + resolution on.
    item : str, optional
        The key that holds the ids of items, where `unknown_items` asks for it.
    unknown_items : "create", "hold" or "refuse"
        See `UnknownItems`. What is computed does not depend on it: it may change at any time.
    """

    name: str
    keys: Mapping[str, KeyType]
    values: Mapping[str, Grid] = field(default_factory=dict)
    attributes: tuple[str, ...] = ()
    lateness: timedelta = timedelta(minutes=10)
    tick: timedelta = timedelta(minutes=1)
    resolution: timedelta = _MICROSECOND
    item: str | None = None
    unknown_items: UnknownItems = "create"

    def __post_init__(self) -> None:
        from adc_features.aggregates.checks import check_stream

        check_stream(self)

    def kind_of(self, column: str) -> str:
        """ "string", "int64" (keys, times, whole values) or "float32" of a column."""
        if column in self.keys:
            return self.keys[column]
        if column in self.attributes:
            return "string"
        return "int64" if column == TIME or not self.values[column].bits else "float32"


@dataclass(frozen=True)
class Residual:
    """A value less what was to be expected of another key: its smoothed mean as known at the event.

    expected = (sum of the other key + smoothing * prior) / (its events + smoothing), prior: the
    mean over everybody, or `initial` before any event. Each residual is rounded once to a grid of
    `bits`. `initial` None: the stream's first event, for `known="resolution"` only.
    """

    of: str
    against: tuple[str, ...]
    smoothing: float = 10.0
    initial: float | None = 0.0
    bits: int = 30


@dataclass(frozen=True)
class Aggregate:
    """One feature; made by `count`, `total` and their like, which say what each field means."""

    kind: Kind
    of: str | Residual | None = None
    n: int | None = None
    smoothing: float = 0.0
    initial: float | None = 0.0
    by: tuple[str, ...] | None = None
    window: timedelta | None = None
    hop: timedelta | None = None
    at: At = "row"


def _columns(names: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    return (names,) if isinstance(names, str) else names


def count(
    of: str | None = None,
    *,
    by: str | tuple[str, ...] | None = None,
    window: timedelta | None = None,
    hop: timedelta | None = None,
    at: At = "row",
) -> Aggregate:
    """Number of events; with `of`, of those that have this value. int64.

    Parameters common to the aggregates
    -----------------------------------
    by : str or tuple of str, optional
        Aggregate the events of the row's group (its brand, say) instead of the row's own key: the
        group of the key's newest event, as known at the row (see `Known`).
    window, hop : timedelta, optional
        Over the tiles of `hop` that begin less than `window` before the reading, and the events
        since: an event exactly `window` old is outside where `hop` divides the times. A hop divides
        a day; tiles are aligned to 1970.
    at : "row" or "read"
        The window ends at the row's newest event, or at the time of the request.
    """
    return Aggregate("count", of, by=_columns(by), window=window, hop=hop, at=at)


def total(
    of: str,
    *,
    by: str | tuple[str, ...] | None = None,
    window: timedelta | None = None,
    hop: timedelta | None = None,
    at: At = "row",
) -> Aggregate:
    """Sum of a value; 0 over no event. float32, int64 of whole numbers."""
    return Aggregate("total", of, by=_columns(by), window=window, hop=hop, at=at)


def mean(
    of: str,
    *,
    by: str | tuple[str, ...] | None = None,
    window: timedelta | None = None,
    hop: timedelta | None = None,
    at: At = "row",
) -> Aggregate:
    """Mean of a value; null over no event. float32."""
    return Aggregate("mean", of, by=_columns(by), window=window, hop=hop, at=at)


def smoothed_mean(
    of: str,
    *,
    smoothing: float = 10.0,
    initial: float | None = 0.0,
    by: str | tuple[str, ...] | None = None,
    window: timedelta | None = None,
    hop: timedelta | None = None,
    at: At = "row",
) -> Aggregate:
    """(sum + smoothing * prior) / (events + smoothing), prior: the mean over everybody as known at
    the row, `initial` before any event. float32.
    """
    return Aggregate(
        "smoothed_mean",
        of,
        smoothing=float(smoothing),
        initial=initial,
        by=_columns(by),
        window=window,
        hop=hop,
        at=at,
    )


def residual_mean(
    of: str,
    *,
    against: str | tuple[str, ...],
    smoothing: float = 10.0,
    initial: float | None = 0.0,
    bits: int = 30,
    by: str | tuple[str, ...] | None = None,
    window: timedelta | None = None,
    hop: timedelta | None = None,
    at: At = "row",
) -> Aggregate:
    """Sum of `Residual`s / (events + smoothing): the mean, smoothed towards 0. float32."""
    residual = Residual(of, _columns(against) or (), float(smoothing), initial, bits)
    return Aggregate(
        "residual_mean",
        residual,
        smoothing=float(smoothing),
        by=_columns(by),
        window=window,
        hop=hop,
        at=at,
    )


def last(
    n: int, of: str | Residual, *, window: timedelta | None = None, hop: timedelta | None = None
) -> Aggregate:
    """The newest n events' value by (time, event id), oldest first: a list."""
    return Aggregate("last", of, n, window=window, hop=hop)


def newest(of: str) -> Aggregate:
    """The newest event's value by (time, event id)."""
    return Aggregate("newest", of, 1)


def last_distinct(
    n: int, of: str, *, window: timedelta | None = None, hop: timedelta | None = None
) -> Aggregate:
    """The n newest different values of a key or attribute, in the order of each one's newest event,
    oldest first: a list. Unknown ("") is no value.
    """
    return Aggregate("last_distinct", of, n, window=window, hop=hop)


def distinct(
    of: str, *, limit: int = 1000, window: timedelta | None = None, hop: timedelta | None = None
) -> Aggregate:
    """Number of different values of a key or attribute, exact up to `limit`, where it stays. int64.
    Unknown ("") is no value.
    """
    return Aggregate("distinct", of, limit, window=window, hop=hop)


def last_time() -> Aggregate:
    """Time of the newest event: int64 microseconds since 1970, UTC."""
    return Aggregate("last_time")


def first_time() -> Aggregate:
    """Time of the first event: int64 microseconds since 1970, UTC."""
    return Aggregate("first_time")


def minimum(
    of: str, *, window: timedelta | None = None, hop: timedelta | None = None, at: At = "row"
) -> Aggregate:
    """Least value; null over no event. float32, int64 of whole numbers."""
    return Aggregate("minimum", of, window=window, hop=hop, at=at)


def maximum(
    of: str, *, window: timedelta | None = None, hop: timedelta | None = None, at: At = "row"
) -> Aggregate:
    """Greatest value; null over no event. float32, int64 of whole numbers."""
    return Aggregate("maximum", of, window=window, hop=hop, at=at)


@dataclass(frozen=True)
class AggregateView:
    """Aggregates of one key, or of one pair of keys, of a stream.

    Raises InputError for what cannot be computed as declared. One feature is `last_time()`: ages,
    validity and audits read it.
    """

    name: str
    stream: EventStream
    key: tuple[str, ...]
    features: Mapping[str, Aggregate]
    known: Known = "sealed"

    def __post_init__(self) -> None:
        from adc_features.aggregates.checks import check_view

        check_view(self)

    @property
    def last_time(self) -> str:
        """The feature that holds the time of the key's newest event."""
        return next(n for n, a in self.features.items() if a.kind == "last_time")
