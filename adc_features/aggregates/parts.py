"""What the features of a view are made of. Reads: views. Writes: parts, cuts, tiles.

A part is a whole number or a list per row. Both engines hand parts to `finalise`, and only there do
they become values of features.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from adc_features.aggregates.declaration import (
    Aggregate,
    AggregateView,
    EventStream,
    Residual,
    microseconds_of,
)
from adc_features.errors import InputError

Of = str | Residual | None
TYPES = {"string": pa.string(), "int64": pa.int64(), "float32": pa.float32()}
"""Types as declarations name them -> those of Arrow."""


@dataclass(frozen=True)
class Part:
    """One quantity per row, over the events of the row's key or of another.

    kind : count, sum, low, high, first (time), last (time): int64 [R]. list, distinct: lists.
    of : what is summed or listed. Of a count, first or last: the optional value that an event must
        have to be counted; None for each event.
    by : None for the row's own key, () for everybody, else the columns of the row's group.
    window, hop : microseconds, or None for all time.
    n : the length of a list. Of everybody's count and sum (by=()): how many events, of the stream's
        first ones, they hold even before there were any; None for none.
    """

    kind: Literal["count", "sum", "low", "high", "first", "last", "list", "distinct"]
    of: Of = None
    by: tuple[str, ...] | None = None
    window: int | None = None
    hop: int | None = None
    n: int | None = None


def counted(stream: EventStream, of: Of) -> str | None:
    """The optional value that an event must have to count for `of`; None where each event has."""
    name = of.of if isinstance(of, Residual) else of
    return name if name and name in stream.values and stream.values[name].optional else None


def main_part(view: AggregateView, one: Aggregate) -> Part:
    """The part that a feature is first of all: its count, sum, extreme, time or list."""
    window = None if one.window is None else microseconds_of(one.window)
    hop = None if one.hop is None else microseconds_of(one.hop)
    kind: dict[str, Part] = {
        "count": Part("count", counted(view.stream, one.of)),
        "minimum": Part("low", one.of),
        "maximum": Part("high", one.of),
        "first_time": Part("first"),
        "last_time": Part("last"),
        "last": Part("list", one.of, n=one.n),
        "newest": Part("list", one.of, n=1),
        "last_distinct": Part("distinct", one.of, n=one.n),
        "distinct": Part("distinct", one.of, n=one.n),
    }
    part = kind.get(one.kind, Part("sum", one.of))
    return replace(part, by=one.by, window=window, hop=hop)


def count_part(view: AggregateView, part: Part) -> Part:
    """The number of events that a sum or extreme is over."""
    return replace(part, kind="count", of=counted(view.stream, part.of))


def without_window(part: Part) -> Part:
    """The same part over all time: what a tile keeps of it."""
    return Part(part.kind, part.of, part.by, n=part.n)


def prior_parts(view: AggregateView, of: Of, initial: float | None) -> tuple[Part, Part]:
    """(sum, count) over everybody of the value that a mean is smoothed with."""
    name, least = of.of if isinstance(of, Residual) else of, 1 if initial is None else None
    return (
        Part("sum", name, by=(), n=least),
        Part("count", counted(view.stream, name), by=(), n=least),
    )


def parts_of(view: AggregateView, one: Aggregate) -> tuple[Part, ...]:
    """Every part that a feature reads."""
    part = main_part(view, one)
    if one.kind in ("mean", "minimum", "maximum", "residual_mean"):
        return part, count_part(view, part)
    if one.kind == "smoothed_mean":
        return part, count_part(view, part), *prior_parts(view, one.of, one.initial)
    return (part,)


def all_parts(view: AggregateView) -> tuple[Part, ...]:
    """The parts of every feature, each once, in the order of the declaration."""
    return tuple(dict.fromkeys(p for one in view.features.values() for p in parts_of(view, one)))


def residuals(view: AggregateView) -> tuple[Residual, ...]:
    """The different residuals that the features read."""
    found = (one.of for one in view.features.values() if isinstance(one.of, Residual))
    return tuple(dict.fromkeys(found))


def kind_of(stream: EventStream, of: Of) -> str:
    """ "string", "int64" or "float32" of what is listed."""
    return stream.kind_of(of) if isinstance(of, str) else "float32"


def bits_of(stream: EventStream, of: Of) -> int:
    """Binary places of a value or residual; 0 of keys and times."""
    if isinstance(of, Residual):
        return of.bits
    return stream.values[of].bits if of and of in stream.values else 0


def capacity_of(stream: EventStream, of: Of) -> int:
    """How many events of one key a sum of `of` holds for certain."""
    if isinstance(of, Residual):  # a mean lies within the bound too, so a residual within twice it
        return int((2**63 - 1) // (2 * stream.values[of.of].bound * 2.0**of.bits + 1))
    return stream.values[str(of)].capacity


def refuse_overflow(count: int, capacity: int, name: str) -> None:
    """Raise InputError where sums over this many events might not fit in 64 bits."""
    if count > capacity:
        raise InputError(
            f"a key of {name} has {count:,} events, but its sums hold {capacity:,} for certain;"
            " declare fewer bits or a smaller bound"
        )


def sealed_cut(stream: EventStream, times: np.ndarray) -> np.ndarray:
    """Of int64 times: the end, exclusive, of what no event that is still accepted can change."""
    tick = microseconds_of(stream.tick)
    return (times - microseconds_of(stream.lateness)) // tick * tick


def event_cut(view: AggregateView, times: np.ndarray) -> np.ndarray:
    """Until when, exclusive, the events of these times know other keys; int64 [N]."""
    if view.known == "sealed":
        return sealed_cut(view.stream, times)
    return times - microseconds_of(view.stream.resolution) + 1


def row_cut(view: AggregateView, times: np.ndarray) -> np.ndarray:
    """Until when, exclusive, the rows of these newest events know other keys; int64 [R]."""
    return sealed_cut(view.stream, times) if view.known == "sealed" else times + 1


def window_start(part: Part, times: np.ndarray) -> np.ndarray:
    """The newest time, int64 [R], that lies outside of a window that ends at each of `times`.

    The tile of an event is ceil(time / hop); the window holds the tiles above
    floor((t - window) / hop).
    """
    if part.window is None or part.hop is None:
        raise ValueError(f"{part} has no window")
    return (times - part.window) // part.hop * part.hop
