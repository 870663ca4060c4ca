"""Vectors of one length, for a projection. Reads: a column of lists of numbers. Writes: raw numbers
and an indicator.

Legend: n rows, D numbers in a vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.inputs.declaration import Vector
from adc_features.inputs.encoded import Block, InputLayout, Projected, SlotLayout
from adc_features.inputs.encoders.base import Fitting, State
from adc_features.inputs.encoders.category import described
from adc_features.inputs.encoders.scaling import counted_indicator
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


@dataclass(frozen=True)
class VectorEncoder:
    """The numbers as they are, float32; scaled to length 1 with `normalise`. Absent: zeros and an
    indicator. A vector of another length, or with NaN, infinity or null inside, is an error.
    """

    spec: ResolvedInput
    length: int

    @classmethod
    def fit(cls, spec: ResolvedInput, parts: Parts, fitting: Fitting) -> Self:
        length = cast(Vector, spec.kind).length or spec.columns["source"].vector_length
        if not length:
            length = _constant_length(spec, parts)
        encoder = cls(spec, length)
        block = encoder.encode(parts)
        if block.dense.all():
            raise InputError(
                f"{described(spec)} has no vector in the {len(block.dense):,} training rows; leave"
                " it out (skip), or check that its view has data at the times of the rows"
            )
        return encoder

    @classmethod
    def restore(cls, spec: ResolvedInput, state: State, vocabularies: Mapping[str, Any]) -> Self:
        return cls(spec, int(state.facts["length"]))

    @property
    def layout(self) -> InputLayout:
        slot = SlotLayout("projected", width=self.length)
        return InputLayout((f"{self.spec.name}_absent",), {}, (slot,))

    def encode(self, parts: Parts) -> Block:
        column = _vectors(self.spec, parts)
        lengths = _lengths(column)
        absent = lengths < 0
        if (wrong := (lengths != self.length) & ~absent).any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"{described(self.spec)} has {lengths[row]} numbers in row {row}, expected"
                f" {self.length} ({int(wrong.sum()):,} rows in all): vectors of one input have one"
                " length; mend it in its source"
            )
        numbers = column.flatten().cast(pa.float32(), safe=False)  # without the elements of nulls
        if numbers.null_count:
            numbers = numbers.fill_null(float("nan"))
        found = numbers.to_numpy(zero_copy_only=False).reshape(-1, self.length)
        if not np.isfinite(found).all():
            bad = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
            raise InputError(
                f"{described(self.spec)} has a vector with NaN, infinity or null inside in row"
                f" {int(np.flatnonzero(~absent)[bad])}; leave the whole vector null where it is"
                " not known, or mend it in its source"
            )
        if cast(Vector, self.spec.kind).normalise:
            found = _normalised(found)
        if absent.any():
            spread = np.zeros((len(absent), self.length), np.float32)
            spread[~absent] = found
            found = spread
        return Block(absent[:, None].astype(np.float32), (Projected(found),))

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block."""
        return counted_indicator(block.dense[:, 0])

    def counts(self, parts: Parts) -> dict[str, int]:
        return self.counted(self.encode(parts))

    def state(self) -> State:
        return State({"length": self.length}, {})


def _vectors(spec: ResolvedInput, parts: Parts) -> pa.Array:
    source = spec.columns["source"]
    column = parts[source.side].column(source.name)
    type_ = column.type
    if pa.types.is_null(type_):
        return column.cast(pa.list_(pa.float32()))
    if any(known(type_) for known in _LISTS):
        inner = type_.value_type
        if pa.types.is_floating(inner) or pa.types.is_integer(inner) or pa.types.is_null(inner):
            return column
    raise InputError(
        f"{described(spec)} holds values of type {type_}, expected lists of numbers; declare"
        " another kind, or convert the column"
    )


def _lengths(column: pa.Array) -> np.ndarray:
    """int64 [n], -1 for null."""
    lengths = pc.list_value_length(column)
    if column.null_count:  # of a list of fixed size, Arrow gives a null's length too
        lengths = pc.if_else(column.is_valid(), lengths, None).fill_null(-1)
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64)


def _constant_length(spec: ResolvedInput, parts: Parts) -> int:
    lengths = _lengths(_vectors(spec, parts))
    known = np.unique(lengths[lengths >= 0])
    if len(known) == 1 and known[0] > 0:
        return int(known[0])
    if not len(known):
        found = f"no vector in the {len(lengths):,} training rows"
    else:
        found = f"vectors of {' and '.join(map(str, known[:3]))} numbers"
    raise InputError(
        f"{described(spec)} has {found}; expected one length: set length= (or Field.vector_length"
        " in Feast) and mend its source, or leave it out (skip)"
    )


def _normalised(found: np.ndarray) -> np.ndarray:
    norm = np.sqrt((found.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return (found / np.where(norm > 0, norm, 1.0)).astype(np.float32)
