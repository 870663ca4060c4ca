"""The inputs of few rows, such as a request, encoded side by side. Reads: fitted encoders, Parts.
Writes: blocks, and their dense numbers in two matrices.

What an input costs on a few hundred rows is its calls, not its values: so all numbers of a side are
scaled in one matrix, by the very operations of `NumberEncoder`, and stand where a model reads them.

Legend: F numbers of a side, n rows of it, N rows.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np

from adc_features.errors import InputError
from adc_features.inputs.declaration import Number
from adc_features.inputs.encoded import Block, Encoded, Lookup, Packed, PackedBlocks
from adc_features.inputs.encoders.base import Encoder
from adc_features.inputs.encoders.number import NumberEncoder, finite_numbers, numbers
from adc_features.inputs.encoders.scaling import BOUND, LARGEST, logarithm, standardised
from adc_features.inputs.rows import Parts, Side
from adc_features.inputs.train_only import served

_PATTERNS = 8
"""How many ways to split inputs into one row and N rows are kept: a service has one or two."""


@dataclass(frozen=True)
class _Numbers:
    """The numbers of one side.

    names: of the inputs [F]; mean, scale, bound, low, high: float64 [F, 1], as each is scaled and
    clipped; logged: places of those that are; clipped: whether any is; edges: the place of each
    that has bins, and their edges.
    """

    side: Side
    names: tuple[str, ...]
    encoders: tuple[NumberEncoder, ...]
    mean: np.ndarray
    scale: np.ndarray
    bound: np.ndarray
    low: np.ndarray
    high: np.ndarray
    logged: np.ndarray
    clipped: bool
    edges: tuple[tuple[int, np.ndarray], ...]

    @classmethod
    def of(cls, side: Side, encoders: Mapping[str, NumberEncoder]) -> "_Numbers":
        every = tuple(encoders.values())
        kinds = [cast(Number, e.spec.kind) for e in every]
        scales = [e.scale for e in every]
        clips = [k.clip if k.clip is not None else (-np.inf, np.inf) for k in kinds]
        return cls(
            side,
            tuple(encoders),
            every,
            _upright(0.0 if s is None else s.mean for s in scales),
            _upright(1.0 if s is None else s.scale for s in scales),
            _upright(LARGEST if s is None else BOUND for s in scales),
            _upright(low for low, _ in clips),
            _upright(high for _, high in clips),
            np.flatnonzero([k.log for k in kinds]),
            any(k.clip is not None for k in kinds),
            tuple((row, e.edges) for row, e in enumerate(every) if e.edges is not None),
        )

    def read(self, parts: Parts, faults: list[InputError]) -> np.ndarray:
        """float64 [F, n], NaN where absent, clipped; what inputs refuse is added to `faults`."""
        values = np.empty((len(self.encoders), len(parts[self.side])))
        for row, encoder in zip(values, self.encoders, strict=True):
            read = finite_numbers if encoder.spec.kind.request else numbers
            try:
                row[:] = read(encoder.spec, parts)
            except InputError as error:
                faults.append(error)
        if not (finite := np.isfinite(values)).all():
            values[~finite] = np.nan
        return np.clip(values, self.low, self.high) if self.clipped else values

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """As `NumberEncoder.encode` scales them, NaN where absent."""
        if len(self.logged):
            chosen = values[self.logged]
            values = values.copy()
            values[self.logged] = logarithm(chosen)
        return standardised(values, self.mean, self.scale, bound=self.bound)

    def bins(self, values: np.ndarray, absent: np.ndarray) -> dict[str, Lookup]:
        """The rows of those that have bins."""
        return {
            self.names[row]: Lookup(
                np.where(absent[row], 0, 1 + np.searchsorted(edges, values[row], side="right"))
            )
            for row, edges in self.edges
        }


@dataclass(frozen=True)
class FewRows:
    """The encoders of a ranker for few rows.

    Parameters
    ----------
    encoders : mapping of str to Encoder
        In the order of the layout.
    """

    most: ClassVar[int] = 2048
    """Rows up to which inputs are encoded side by side; more are faster one input at a time, as a
    column then fills a cache."""
    encoders: Mapping[str, Encoder]

    @cached_property
    def _numbers(self) -> tuple[_Numbers, ...]:
        sides: dict[Side, dict[str, NumberEncoder]] = {}
        for name, encoder in self.encoders.items():
            if isinstance(encoder, NumberEncoder) and not encoder.spec.kind.train_only:
                side = encoder.spec.columns["source"].side
                sides.setdefault(side, {})[name] = encoder
        return tuple(_Numbers.of(side, of) for side, of in sides.items())

    @cached_property
    def _others(self) -> dict[str, Encoder]:
        return {name: e for name, e in self.encoders.items() if name not in self._sides}

    @cached_property
    def _widths(self) -> dict[str, int]:
        """Dense columns of the inputs that have some."""
        widths = {name: len(e.layout.dense) for name, e in self.encoders.items()}
        return {name: width for name, width in widths.items() if width}

    def encode(self, parts: Parts, faults: list[InputError]) -> Encoded:
        """The arrays of these rows; what inputs refuse is added to `faults`, and nothing that is
        returned then counts."""
        blocks: dict[str, Block] = {}
        for name, encoder in self._others.items():
            try:
                blocks[name] = encoder.encode(served(encoder.spec, parts))
            except InputError as error:
                faults.append(error)
        read = [group.read(parts, faults) for group in self._numbers]
        if faults:
            return Encoded({}, parts.rows)
        place = self._place(parts, blocks)
        one = np.empty((1, place.one), np.float32)
        many = np.empty((parts.rows, place.many), np.float32)
        for name, (single, columns) in place.columns.items():
            if name in blocks:
                (one if single else many)[:, columns] = blocks[name].dense
        for group, values in zip(self._numbers, read, strict=True):
            scaled = group.scaled(values)
            absent = np.isnan(scaled)
            if absent.any():
                scaled[absent] = 0
            single, _ = place.columns[group.names[0]]
            dense, starts = one if single else many, place.starts[group.side]
            dense[:, starts] = scaled.T
            dense[:, starts + 1] = absent.T
            binned = group.bins(values, absent)
            for name in group.names:
                _, columns = place.columns[name]
                slots = (binned[name],) if name in binned else ()
                blocks[name] = Block(dense[:, columns], slots)
        packed = Packed(tuple(self._widths), place.singles, one, many)
        return Encoded(PackedBlocks({n: blocks[n] for n in self.encoders}, packed), parts.rows)

    def counted(self, encoded: Encoded) -> dict[str, dict[str, int]]:
        """The counts of the numbers, where this encoded them."""
        packed = getattr(encoded.blocks, "packed", None)
        if packed is None:
            return {}
        absent = _absent(packed, self._widths, self._sides)
        return {
            name: {
                "absent": gone,
                "unknown": 0,
                "present": len(encoded.blocks[name].dense) - gone,
            }
            for name, gone in absent.items()
        }

    def _place(self, parts: Parts, blocks: Mapping[str, Block]) -> "_Place":
        """Where each input's dense columns stand."""
        count = parts.rows
        alone = {g.side: len(parts[g.side]) == 1 != count for g in self._numbers}
        side_of = self._sides
        singles = tuple(
            alone[side_of[name]] if name in side_of else len(blocks[name].dense) == 1 != count
            for name in self._widths
        )
        known = self._places.get(singles)
        if known is None:
            if len(self._places) >= _PATTERNS:
                self._places.clear()
            known = self._places[singles] = _Place.of(self._widths, singles, self._numbers)
        return known

    @cached_property
    def _sides(self) -> dict[str, Side]:
        return {name: group.side for group in self._numbers for name in group.names}

    @cached_property
    def _places(self) -> dict[tuple[bool, ...], "_Place"]:
        return {}


@dataclass(frozen=True)
class _Place:
    """Where dense columns stand in the matrix of one row and in that of N.

    one, many: their widths. columns: input -> whether it is in that of one row, and its columns.
    starts: of each number of a side, the first of its two.
    """

    singles: tuple[bool, ...]
    one: int
    many: int
    columns: Mapping[str, tuple[bool, slice]]
    starts: Mapping[Side, np.ndarray]

    @classmethod
    def of(
        cls, widths: Mapping[str, int], singles: Sequence[bool], groups: Sequence[_Numbers]
    ) -> "_Place":
        ends, columns = {True: 0, False: 0}, {}
        for (name, width), single in zip(widths.items(), singles, strict=True):
            columns[name] = single, slice(ends[single], ends[single] + width)
            ends[single] += width
        starts = {
            group.side: np.array([columns[name][1].start for name in group.names])
            for group in groups
        }
        return cls(tuple(singles), ends[True], ends[False], columns, starts)


def _absent(packed: Packed, widths: Mapping[str, int], names: Container[str]) -> dict[str, int]:
    """How many rows of each of these numbers are absent."""
    ends: dict[bool, int] = {True: 0, False: 0}
    columns: dict[bool, dict[str, int]] = {True: {}, False: {}}
    for name, single in zip(packed.names, packed.singles, strict=True):
        if name in names:
            columns[single][name] = ends[single] + 1
        ends[single] += widths[name]
    found: dict[str, int] = {}
    for single, of in columns.items():
        # of the indicators alone: a sum of other columns may overflow
        gone = (packed.one if single else packed.many)[:, list(of.values())].sum(axis=0)
        found |= zip(of, gone.astype(int).tolist(), strict=True)
    return found


def _upright(values: Any) -> np.ndarray:
    return np.array(list(values), np.float64)[:, None]
