"""What a declaration of aggregates may say. Reads: views. Writes: nothing; raises InputError."""

from datetime import timedelta
from typing import get_args

from adc_features.aggregates.declaration import (
    DAY,
    RESERVED,
    TIME,
    Aggregate,
    AggregateView,
    EventStream,
    Kind,
    Residual,
    UnknownItems,
)
from adc_features.errors import InputError

NUMERIC = ("total", "mean", "smoothed_mean", "minimum", "maximum")
WINDOWED_AT_READ = ("count", "total", "mean", "smoothed_mean", "residual_mean")
MOST_TILES = 2_000
MOST_LISTED = 1_000


def check_stream(stream: EventStream) -> None:
    """Raise InputError unless the stream can be taken as it is declared."""
    if not stream.name or not stream.keys:
        raise InputError("an event stream needs a name and at least one key column")
    columns = [*stream.keys, *stream.attributes, *stream.values]
    for name in columns:
        if columns.count(name) > 1 or name in RESERVED or not name:
            raise InputError(
                f"the stream {stream.name!r} declares the column {name!r} twice, or under a name"
                f" that is taken ({', '.join(RESERVED)}); give each column its own name"
            )
    for name, kind in stream.keys.items():
        if kind not in ("string", "int64"):
            raise InputError(
                f"the key {name!r} of the stream {stream.name!r} is of type {kind!r}; expected"
                " 'string' or 'int64'"
            )
    if stream.lateness < timedelta(0) or stream.tick <= timedelta(0):
        raise InputError(
            f"lateness {stream.lateness} and tick {stream.tick} of the stream {stream.name!r}:"
            " expected a lateness of 0 or more and a tick above 0"
        )
    if stream.resolution <= timedelta(0):
        raise InputError(
            f"resolution is {stream.resolution}; expected the smallest step of the data's time"
            " stamps, above 0"
        )
    if stream.unknown_items not in (policies := get_args(UnknownItems)):
        raise InputError(
            f"unknown_items of the stream {stream.name!r} is {stream.unknown_items!r}; expected one"
            f" of {', '.join(policies)}"
        )
    if stream.item not in stream.keys and (stream.item or stream.unknown_items != "create"):
        raise InputError(
            f"item of the stream {stream.name!r} is {stream.item!r}; expected the key that holds"
            f" the ids of items, one of {', '.join(stream.keys)}"
        )


def check_view(view: AggregateView) -> None:
    """Raise InputError unless the view can be computed as it is declared."""
    stream, where = view.stream, f"the view {view.name!r}"
    if not view.name:
        raise InputError("a view of aggregates has no name; give one")
    if not view.key or len(set(view.key)) < len(view.key):
        raise InputError(f"{where} has the key {view.key}; name one or several different columns")
    _check_columns(stream, view.key, f"the key of {where}")
    if view.known not in ("sealed", "resolution"):
        raise InputError(f"known of {where} is {view.known!r}; expected 'sealed' or 'resolution'")
    if sum(a.kind == "last_time" for a in view.features.values()) != 1:
        raise InputError(
            f"{where} declares no feature `last_time()`, or several; give it one: ages and checks"
            " of validity read it"
        )
    for name, aggregate in view.features.items():
        if name in (*view.key, *RESERVED):
            raise InputError(f"{where} has a feature named {name!r}, which is taken; rename it")
        _check_aggregate(view, aggregate, f"the feature {name!r} of {where}")


def _check_columns(stream: EventStream, columns: tuple[str, ...], where: str) -> None:
    for name in columns:
        if name not in stream.keys and name not in stream.attributes:
            known = ", ".join([*stream.keys, *stream.attributes])
            raise InputError(
                f"{where} names the column {name!r}; the stream {stream.name!r} has the keys and"
                f" attributes {known}"
            )


def _check_aggregate(view: AggregateView, one: Aggregate, where: str) -> None:
    if one.kind not in (kinds := get_args(Kind)):
        raise InputError(f"{where} is of kind {one.kind!r}; expected one of {', '.join(kinds)}")
    _check_input(view, one, where)
    _check_window(view, one, where)
    if one.by is not None:
        _check_columns(view.stream, one.by, f"`by` of {where}")
        if one.window is not None:
            raise InputError(f"{where} has `by` and a window; declare a view keyed by the group")
    if one.kind in ("last", "last_distinct", "distinct", "newest") and not (
        isinstance(one.n, int) and 1 <= one.n <= MOST_LISTED
    ):
        raise InputError(f"{where} keeps {one.n} values; expected 1 to {MOST_LISTED}")
    smoothed = one.kind in ("smoothed_mean", "residual_mean")
    if smoothed and not 0 < one.smoothing < float("inf"):
        raise InputError(f"smoothing of {where} is {one.smoothing}; expected a number above 0")
    if one.initial is None:
        _check_initial(view, where)


def _check_initial(view: AggregateView, where: str) -> None:
    if view.known == "sealed":
        raise InputError(
            f"{where} begins with the stream's first event (initial None), which a late event may"
            " change; state a number, or declare the view with known='resolution'"
        )


def _check_input(view: AggregateView, one: Aggregate, where: str) -> None:
    stream = view.stream
    if isinstance(one.of, Residual):
        if one.kind not in ("residual_mean", "last"):
            raise InputError(f"{where}: a residual has a residual_mean or a list, no {one.kind}")
        _check_residual(view, one.of, where)
    elif one.kind in NUMERIC or (one.kind == "count" and one.of is not None):
        if one.of not in stream.values:
            raise InputError(
                f"{where} reads the value {one.of!r}; the stream {stream.name!r} has"
                f" {', '.join(stream.values) or 'no values'}"
            )
    elif one.kind in ("last_distinct", "distinct") or (
        one.kind in ("last", "newest") and one.of not in (TIME, *stream.values)
    ):
        _check_columns(stream, (one.of or "",), where)


def _check_residual(view: AggregateView, residual: Residual, where: str) -> None:
    stream = view.stream
    if residual.of not in stream.values or not residual.against:
        raise InputError(
            f"{where} takes the residual of {residual.of!r} against {residual.against}; expected a"
            f" value ({', '.join(stream.values)}) and the columns of another key"
        )
    _check_columns(stream, residual.against, f"`against` of {where}")
    if not 1 <= residual.bits <= 40 or not residual.smoothing > 0:
        raise InputError(
            f"the residual of {where} has {residual.bits} bits and smoothing {residual.smoothing};"
            " expected 1 to 40 bits and a smoothing above 0"
        )
    if residual.initial is None:
        _check_initial(view, where)
    elif abs(residual.initial) > stream.values[residual.of].bound:
        raise InputError(
            f"the residual of {where} begins with {residual.initial}; expected a value within"
            f" +-{stream.values[residual.of].bound}"
        )


def _check_window(view: AggregateView, one: Aggregate, where: str) -> None:
    if (one.window is None) != (one.hop is None):
        raise InputError(f"{where} has a window or a hop alone; give both or neither")
    if one.at not in ("row", "read"):
        raise InputError(f"{where} is read at {one.at!r}; expected 'row' or 'read'")
    if one.window is None or one.hop is None:
        if one.at == "read":
            raise InputError(f"{where} is read at 'read' without a window; give window and hop")
        return
    if one.kind in ("last_time", "first_time", "newest"):
        raise InputError(f"{where}: {one.kind} has no window; leave it out")
    if one.at == "read" and one.kind not in WINDOWED_AT_READ:
        raise InputError(
            f"{where}: {one.kind} is not read at the time of the request; leave `at` out, or take"
            f" one of {', '.join(WINDOWED_AT_READ)}"
        )
    if one.hop <= timedelta(0) or DAY % one.hop:
        raise InputError(
            f"hop of {where} is {one.hop}; expected a duration that divides a day, such as a day,"
            " an hour or 5 minutes"
        )
    most = MOST_TILES if view.known == "sealed" else 2**62  # the others keep no tiles
    if not 1 <= one.window // one.hop <= most:
        raise InputError(
            f"window of {where} is {one.window} in hops of {one.hop}; expected 1 to {MOST_TILES}"
            " hops"
        )
