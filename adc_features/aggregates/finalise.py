"""The one place where parts become values of features. Reads: parts. Writes: Arrow columns.

Both engines call it, so that equal parts give equal bits. Whole numbers become float64 first, are
divided then, and become float32 last.

Legend: R rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from adc_features.aggregates.declaration import Aggregate, AggregateView, EventStream, Residual
from adc_features.aggregates.parts import (
    TYPES,
    Of,
    Part,
    bits_of,
    count_part,
    kind_of,
    main_part,
    prior_parts,
    window_start,
)
from adc_features.aggregates.ranges import spans


class Lists(NamedTuple):
    """Lists of R rows. offsets: int64 [R + 1], ascending from 0. values: of all rows, one after the
    other; values and residuals as int64 on their grid.
    """

    offsets: np.ndarray
    values: pa.Array


class Tiles(NamedTuple):
    """The tiles of the windows of R rows. offsets: int64 [R + 1], ascending from 0. tile, events,
    total: int64 [E], of all rows, one after the other.
    """

    offsets: np.ndarray
    tile: np.ndarray
    events: np.ndarray
    total: np.ndarray


class Source(Protocol):
    """What an engine gives to be finalised."""

    def read(self, part: Part) -> np.ndarray:
        """int64 [R] of a count, sum, extreme or time."""
        ...

    def read_lists(self, part: Part) -> Lists:
        """The values of a list, oldest first."""
        ...

    def read_tiles(self, part: Part, events: Part) -> Tiles:
        """The tiles of a windowed sum and of the number of its events."""
        ...


TILES = "__tiles"
"""Ends the name of the column that stands in rows for a feature read at the time of a request:
list<int64>, the sum and count over everybody that a smoothed mean needs (else 0, 0), then of each
tile its number, count and sum.
"""
_HEAD, _TILE = 2, 3
READ_AT = "adc_read_at"
"""The time of a reading beside its tiles: int64 microseconds since 1970, UTC."""


def column_of(name: str, one: Aggregate) -> str:
    """The column of a row that holds a feature, or the tiles that it is made of."""
    return name + TILES if one.at == "read" else name


def feature_type(view: AggregateView, one: Aggregate) -> pa.DataType:
    """The Arrow type of a feature once it is read."""
    if one.kind in ("count", "distinct", "last_time", "first_time"):
        return pa.int64()
    if one.kind in ("mean", "smoothed_mean", "residual_mean"):
        return pa.float32()
    kind = TYPES[kind_of(view.stream, one.of)]
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


def finalise(made: Mapping[str, Recipe], source: Source) -> dict[str, pa.Array]:
    """The columns of R rows, of the parts that `source` gives."""
    found = {}
    for name, recipe in made.items():
        if recipe.one.at == "read":
            found[column_of(name, recipe.one)] = _tiles(recipe, source)
        else:
            column = _feature(recipe, source)
            found[name] = column if column.type == recipe.kind else column.cast(recipe.kind)
    return found


def _feature(recipe: Recipe, source: Source) -> pa.Array:
    stream, one, part = recipe.stream, recipe.one, recipe.part
    if one.kind in ("last", "last_distinct", "distinct", "newest"):
        return _of_lists(stream, one, source.read_lists(part))
    whole = source.read(part)
    if one.kind in ("count", "last_time", "first_time"):
        return pa.array(whole)
    if one.kind == "total":
        return numbers(stream, one.of, whole)
    count = source.read(recipe.events)
    if one.kind in ("minimum", "maximum"):
        return numbers(stream, one.of, whole, absent=count == 0)
    smooth = one.kind == "smoothed_mean"
    prior = tuple(source.read(p) for p in recipe.prior) if smooth else ()
    return _mean(recipe, whole, count, prior)


def _mean(
    recipe: Recipe, whole: np.ndarray, count: np.ndarray, everybody: tuple[np.ndarray, ...]
) -> pa.Array:
    """A mean of any kind. everybody: (sum, count) where it is smoothed towards their mean."""
    stream, one = recipe.stream, recipe.one
    if one.kind == "mean":
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (off_grid(stream, one.of, whole) / count).astype(np.float32)
        return pa.array(mean, mask=count == 0)
    prior: np.ndarray | float = 0.0
    if one.kind == "smoothed_mean":
        prior = prior_mean(off_grid(stream, one.of, everybody[0]), everybody[1], one.initial)
    mean = smoothed(off_grid(stream, one.of, whole), count, prior, smoothing=one.smoothing)
    return pa.array(mean.astype(np.float32))


def _tiles(recipe: Recipe, source: Source) -> pa.Array:
    tiles = source.read_tiles(recipe.part, recipe.events)
    size = np.diff(tiles.offsets) * _TILE + _HEAD
    offsets = np.concatenate([[0], np.cumsum(size)])
    values = np.zeros(int(offsets[-1]), np.int64)
    inside = np.ones(len(values), bool)
    for place in range(_HEAD):
        inside[offsets[:-1] + place] = False
        if recipe.one.kind == "smoothed_mean":
            values[offsets[:-1] + place] = source.read(recipe.prior[place])
    values[inside] = np.column_stack([tiles.tile, tiles.events, tiles.total]).reshape(-1)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def read_rows(view: AggregateView, rows: pa.Table, times: np.ndarray) -> pa.Table:
    """Rows with every feature, those of at="read" as of `times`: int64 [R] microseconds since 1970,
    UTC, of requests that read these rows. Where a row is null, so are its features.
    """
    made = recipes(view)
    for name, recipe in made.items():
        if recipe.one.at == "read":
            place = rows.column_names.index(column_of(name, recipe.one))
            column = _read_tiles(recipe, rows.column(place).combine_chunks(), times)
            rows = rows.set_column(place, name, column)
    return rows


def read_columns(view: AggregateView, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The features of at="read" of rows: of their tiles and, as `READ_AT`, the times at which they
    are read. What a feature store calls, on both paths.
    """
    at_read = {name: one for name, one in view.features.items() if one.at == "read"}
    tiles = {
        column: pa.array(columns[column], pa.list_(pa.int64()))
        for column in (column_of(name, one) for name, one in at_read.items())
    }
    read = read_rows(view, pa.table(tiles), np.array(columns[READ_AT], np.int64))
    return {name: read[name].to_pylist() for name in at_read}


def _read_tiles(recipe: Recipe, column: pa.Array, times: np.ndarray) -> pa.Array:
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    found = np.flatnonzero(valid)
    column, times = column.take(pa.array(found)), times[found]
    start, size = column.offsets.to_numpy()[:-1], column.value_lengths().to_numpy()
    values = column.values.to_numpy()
    tile = spans(start + _HEAD, size - _HEAD).reshape(-1, _TILE)
    owner = np.repeat(np.arange(len(found)), (size - _HEAD) // _TILE)
    oldest = window_start(recipe.part, times) // (recipe.part.hop or 1)
    kept = values[tile[:, 0]] > oldest[owner]
    count, whole = np.zeros(len(found), np.int64), np.zeros(len(found), np.int64)
    np.add.at(count, owner[kept], values[tile[kept, 1]])
    np.add.at(whole, owner[kept], values[tile[kept, 2]])
    if recipe.one.kind == "count":
        read = pa.array(count)
    elif recipe.one.kind == "total":
        read = numbers(recipe.stream, recipe.one.of, whole)
    else:
        read = _mean(recipe, whole, count, (values[start], values[start + 1]))
    return read.take(pa.array(np.cumsum(valid) - 1, mask=~valid))


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
