"""Pairs of categories as one. Reads: two columns of ids. Writes: a lookup.

A pair's key is the bytes of both parts, each after its length in four bytes, so ("ab", "c") differs
from ("a", "bc") and a pair from its reverse. Integers are eight bytes, little-endian.

Legend: n rows, U distinct pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.inputs.counting import id_values
from adc_features.inputs.encoded import Block, InputLayout
from adc_features.inputs.encoders.base import Fitting, State, table_of
from adc_features.inputs.encoders.category import (
    counted_lookup,
    described,
    fitted_vocabulary,
    lookup_block,
    lookup_layout,
)
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts
from adc_features.inputs.vocabulary import ABSENT, Vocabulary

_ABSENT = -1


@dataclass(frozen=True)
class CrossEncoder:
    """The row of each pair; absent where either part is. types: of both parts, as fitted."""

    spec: ResolvedInput
    vocabulary: Vocabulary
    types: tuple[str, str]

    @classmethod
    def values(cls, spec: ResolvedInput, parts: Parts) -> pa.Array:
        """What the vocabulary is fitted on: the key of each row, null where a part is absent."""
        keys, places, _ = _pairs(spec, parts)
        return keys.take(pa.array(places, mask=places == _ABSENT))

    @classmethod
    def fit(cls, spec: ResolvedInput, parts: Parts, fitting: Fitting) -> Self:
        vocabulary = fitted_vocabulary(cls.values(spec, parts), spec, fitting)
        return cls(spec, vocabulary, _pairs(spec, parts)[2])

    @classmethod
    def restore(cls, spec: ResolvedInput, state: State, vocabularies: Mapping[str, Any]) -> Self:
        left, right = state.facts["types"]
        return cls(spec, vocabularies[table_of(spec)], (left, right))

    @property
    def layout(self) -> InputLayout:
        return InputLayout(slots=(lookup_layout(self.spec, self.vocabulary),))

    def encode(self, parts: Parts) -> Block:
        keys, places, types = _pairs(self.spec, parts)
        if any(got not in ("null", known) for got, known in zip(types, self.types, strict=True)):
            raise InputError(
                f"{described(self.spec)} holds values of type {' and '.join(types)}, it was fitted"
                f" on {' and '.join(self.types)}: convert the columns to the types of training"
            )
        rows = np.append(self.vocabulary.rows(keys, of=described(self.spec)), ABSENT)
        return lookup_block(rows.take(places))  # the last for those without a pair

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block."""
        return counted_lookup(block, self.vocabulary)

    def counts(self, parts: Parts) -> dict[str, int]:
        return self.counted(self.encode(parts))

    def state(self) -> State:
        return State({"types": list(self.types)}, {})


def _pairs(spec: ResolvedInput, parts: Parts) -> tuple[pa.Array, np.ndarray, tuple[str, str]]:
    """The keys of the distinct pairs, binary [U]; which of them each row has, int64 [n], -1 where a
    part is absent; and the types of the parts."""
    left, left_at, left_type = _prefixed(spec, "left", parts)
    right, right_at, right_type = _prefixed(spec, "right", parts)
    pair = np.where((left_at < 0) | (right_at < 0), _ABSENT, left_at * len(right) + right_at)
    encoded = pa.array(pair).dictionary_encode()
    distinct = encoded.dictionary.to_numpy()
    known = distinct >= 0
    place = np.where(known, np.cumsum(known) - 1, _ABSENT)
    first, second = np.divmod(distinct[known], max(1, len(right)))
    keys = pc.binary_join_element_wise(
        left.take(pa.array(first)), right.take(pa.array(second)), b""
    )
    return keys, place.take(encoded.indices.to_numpy()), (left_type, right_type)


def _prefixed(spec: ResolvedInput, role: str, parts: Parts) -> tuple[pa.Array, np.ndarray, str]:
    """The distinct values of a part as bytes after their length; which of them each row has, -1 for
    null; and the type."""
    source = spec.columns[role]
    values = id_values(parts[source.side].column(source.name), of=described(spec))
    type_ = str(values.type)
    if pa.types.is_null(values.type):
        values = values.cast(pa.string())
    encoded = values.dictionary_encode()
    known = encoded.dictionary.to_pylist()
    if pa.types.is_integer(values.type):
        known = [value.to_bytes(8, "little", signed=True) for value in known]
    known = [value.encode() if isinstance(value, str) else value for value in known]
    prefixed = pa.array([len(value).to_bytes(4, "big") + value for value in known], pa.binary())
    places = encoded.indices.fill_null(_ABSENT).to_numpy().astype(np.int64)
    return prefixed, places, type_
