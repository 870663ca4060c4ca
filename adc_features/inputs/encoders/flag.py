"""Flags: +1, -1, 0 where absent, and an indicator. Reads: a column of true, false and null. Writes:
two dense columns.

Legend: n rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.inputs.encoded import Block, InputLayout
from adc_features.inputs.encoders.base import Fitting, State
from adc_features.inputs.encoders.category import described
from adc_features.inputs.encoders.scaling import counted_indicator
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts


@dataclass(frozen=True)
class FlagEncoder:
    """True or false; integers 0 and 1 where they are declared a flag. Anything else is an error."""

    spec: ResolvedInput

    @classmethod
    def fit(cls, spec: ResolvedInput, parts: Parts, fitting: Fitting) -> Self:
        encoder = cls(spec)
        encoder.encode(parts)
        return encoder

    @classmethod
    def restore(cls, spec: ResolvedInput, state: State, vocabularies: Mapping[str, Any]) -> Self:
        return cls(spec)

    @property
    def layout(self) -> InputLayout:
        name = self.spec.name
        return InputLayout((name, f"{name}_absent"), {0: 1})

    def encode(self, parts: Parts) -> Block:
        source = self.spec.columns["source"]
        column = _as_flags(parts[source.side].column(source.name), self.spec)
        dense = np.zeros((len(column), 2), np.float32)
        known, values = column.buffers()
        dense[:, 0] = bits(values, column) * np.float32(2) - np.float32(1)
        if column.null_count:
            present = bits(known, column)
            dense[:, 1] = 1 - present
            dense[:, 0] *= present
        return Block(dense)

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block."""
        return counted_indicator(block.dense[:, 1])

    def counts(self, parts: Parts) -> dict[str, int]:
        return self.counted(self.encode(parts))

    def state(self) -> State:
        return State({}, {})


def bits(buffer: pa.Buffer, column: pa.Array) -> np.ndarray:
    """uint8 [n], 0 or 1: the bits that one of the column's buffers holds for its rows."""
    packed = np.frombuffer(buffer, np.uint8)
    count = column.offset + len(column)
    return np.unpackbits(packed, count=count, bitorder="little")[column.offset :]


def _as_flags(column: pa.Array, spec: ResolvedInput) -> pa.Array:
    if pa.types.is_boolean(column.type):
        return column
    if pa.types.is_null(column.type):
        return column.cast(pa.bool_())
    if pa.types.is_integer(column.type):
        other = pc.and_(pc.not_equal(column, 0), pc.not_equal(column, 1)).fill_null(False)
        if not (row := other.index(True).as_py()) >= 0:
            return column.cast(pa.bool_())
        found = f"{column[row].as_py()!r} in row {row}"
    else:
        found = f"values of type {column.type}"
    raise InputError(
        f"{described(spec)} holds {found}; a flag is true, false or null (or 0 and 1): declare it"
        " as number or category, or mend it in its source"
    )
