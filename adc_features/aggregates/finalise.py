"""The one place where parts become values of features. Reads: parts. Writes: Arrow columns.

Both engines call it, so that equal parts give equal bits. Whole numbers become float64 first, are
divided then, and become float32 last.

Legend: R rows.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.aggregates.declaration import Aggregate, AggregateView, EventStream, Residual
from adc_features.aggregates.parts import (
    Of,
    Part,
    bits_of,
    count_part,
    kind_of,
    main_part,
    prior_parts,
)

_TYPES = {"string": pa.string(), "int64": pa.int64(), "float32": pa.float32()}


class Lists(NamedTuple):
    """Lists of R rows. offsets: int64 [R + 1], ascending from 0. values: of all rows, one after the
    other; values and residuals as int64 on their grid.
    """

    offsets: np.ndarray
    values: pa.Array


Read = Callable[[Part], np.ndarray]
ReadLists = Callable[[Part], Lists]


def feature_type(view: AggregateView, one: Aggregate) -> pa.DataType:
    """The Arrow type of a feature."""
    if one.kind in ("count", "distinct", "last_time", "first_time"):
        return pa.int64()
    if one.kind in ("mean", "smoothed_mean", "residual_mean"):
        return pa.float32()
    kind = _TYPES[kind_of(view.stream, one.of)]
    return pa.list_(kind) if one.kind in ("last", "last_distinct") else kind


class Recipe(NamedTuple):
    """How a feature is made of parts: prepared once for each view."""

    stream: EventStream
    one: Aggregate
    kind: pa.DataType
    part: Part
    events: Part
    prior: tuple[Part, Part]


def recipes(view: AggregateView) -> dict[str, Recipe]:
    """The recipe of each feature, in the order of the declaration."""
    found = {}
    for name, one in view.features.items():
        part, prior = main_part(view, one), prior_parts(view, one.of, one.initial)
        kind = feature_type(view, one)
        found[name] = Recipe(view.stream, one, kind, part, count_part(view, part), prior)
    return found


def finalise(made: Mapping[str, Recipe], read: Read, read_lists: ReadLists) -> dict[str, pa.Array]:
    """The features of R rows, of the parts that `read` and `read_lists` give."""
    found = {name: _feature(recipe, read, read_lists) for name, recipe in made.items()}
    return {n: c if c.type == made[n].kind else c.cast(made[n].kind) for n, c in found.items()}


def _feature(recipe: Recipe, read: Read, read_lists: ReadLists) -> pa.Array:
    stream, one, part = recipe.stream, recipe.one, recipe.part
    if one.kind in ("last", "last_distinct", "distinct", "newest"):
        return _of_lists(stream, one, read_lists(part))
    whole = read(part)
    if one.kind in ("count", "last_time", "first_time"):
        return pa.array(whole)
    if one.kind == "total":
        return numbers(stream, one.of, whole)
    count = read(recipe.events)
    if one.kind in ("minimum", "maximum"):
        return numbers(stream, one.of, whole, absent=count == 0)
    if one.kind == "mean":
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (off_grid(stream, one.of, whole) / count).astype(np.float32)
        return pa.array(mean, mask=count == 0)
    prior: np.ndarray | float = 0.0
    if one.kind == "smoothed_mean":
        total, events = (read(p) for p in recipe.prior)
        prior = prior_mean(off_grid(stream, one.of, total), events, one.initial)
    mean = smoothed(off_grid(stream, one.of, whole), count, prior, smoothing=one.smoothing)
    return pa.array(mean.astype(np.float32))


def _of_lists(stream: EventStream, one: Aggregate, lists: Lists) -> pa.Array:
    length = np.diff(lists.offsets)
    if one.kind == "distinct":
        return pa.array(length)
    values = lists.values
    if kind_of(stream, one.of) == "float32":
        values = numbers(stream, one.of, values.to_numpy())
    if one.kind == "newest":  # a list of one or none
        place = np.where(length > 0, lists.offsets[:-1], 0)
        return values.take(pa.array(place, mask=length == 0))
    return pa.ListArray.from_arrays(pa.array(lists.offsets.astype(np.int32)), values)


def off_grid(stream: EventStream, of: Of, whole: np.ndarray) -> np.ndarray:
    """float64 [R] of int64 multiples of 2^-bits."""
    return whole.astype(np.float64) / 2.0 ** bits_of(stream, of)


def numbers(
    stream: EventStream, of: Of, whole: np.ndarray, *, absent: np.ndarray | None = None
) -> pa.Array:
    """Values as features hold them: float32, or int64 where they are whole by declaration."""
    if kind_of(stream, of) == "int64":
        return pa.array(whole, mask=absent)
    return pa.array(off_grid(stream, of, whole).astype(np.float32), mask=absent)


def smoothed(
    total: np.ndarray, count: np.ndarray, prior: np.ndarray | float, *, smoothing: float
) -> np.ndarray:
    """float64 [R]."""
    return (total + smoothing * prior) / (count + smoothing)


def prior_mean(total: np.ndarray, count: np.ndarray, initial: float | None) -> np.ndarray:
    """The mean over everybody, float64 [R]; `initial` where there was no event yet."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, 0.0 if initial is None else initial)


def residuals_on_grid(
    stream: EventStream,
    residual: Residual,
    value: np.ndarray,
    *,
    other: tuple[np.ndarray, np.ndarray],
    everybody: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """int64 [N] multiples of 2^-residual.bits: value less what was expected of the other key.

    value: int64 [N] on the value's grid. other, everybody: (sum, count), int64 [N] each, as known
    at each event.
    """
    prior = prior_mean(off_grid(stream, residual.of, everybody[0]), everybody[1], residual.initial)
    expected = smoothed(
        off_grid(stream, residual.of, other[0]), other[1], prior, smoothing=residual.smoothing
    )
    difference = off_grid(stream, residual.of, value) - expected
    return np.rint(difference * 2.0**residual.bits).astype(np.int64)
