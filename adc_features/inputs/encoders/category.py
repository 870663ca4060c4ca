"""Categories: one row of a table. Reads: a column of ids. Writes: a lookup.

Legend: n rows.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.inputs.encoded import Block, InputLayout, Lookup, SlotLayout
from adc_features.inputs.encoders.base import Fitting, State, table_of
from adc_features.inputs.kinds import VocabularyOptions
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts
from adc_features.inputs.vocabulary import ABSENT, Vocabulary


@dataclass(frozen=True)
class VocabularyEncoder:
    """What encoders share that learn a vocabulary and nothing else."""

    spec: ResolvedInput
    vocabulary: Vocabulary

    @classmethod
    @abstractmethod
    def values(cls, spec: ResolvedInput, parts: Parts) -> pa.Array:
        """What the vocabulary is fitted on."""

    @classmethod
    def fit(cls, spec: ResolvedInput, parts: Parts, fitting: Fitting) -> Self:
        return cls(spec, fitted_vocabulary(cls.values(spec, parts), spec, fitting))

    @classmethod
    def restore(cls, spec: ResolvedInput, state: State, vocabularies: Mapping[str, Any]) -> Self:
        return cls(spec, vocabularies[table_of(spec)])

    def state(self) -> State:
        return State({}, {})


class CategoryEncoder(VocabularyEncoder):
    """The row of each value in its vocabulary."""

    @classmethod
    def values(cls, spec: ResolvedInput, parts: Parts) -> pa.Array:
        source = spec.columns["source"]
        return parts[source.side].column(source.name)

    @property
    def layout(self) -> InputLayout:
        return InputLayout(slots=(lookup_layout(self.spec, self.vocabulary),))

    def encode(self, parts: Parts) -> Block:
        source, of = self.spec.columns["source"], described(self.spec)
        stored = parts[source.side].stored(source.name)
        if stored is not None:
            vocabulary, type_ = self.vocabulary, stored.type
            rows = stored.rows_by(vocabulary, lambda v: vocabulary.rows_of_ids(v, type_, of=of))
            if rows is None and (ids := stored.ids) is not None:
                rows = vocabulary.rows_of_ids(ids, type_, of=of)
            if rows is not None:
                return lookup_block(rows)
        return lookup_block(self.vocabulary.rows(self.values(self.spec, parts), of=of))

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block."""
        return counted_lookup(block, self.vocabulary)

    def counts(self, parts: Parts) -> dict[str, int]:
        return self.counted(self.encode(parts))


def fitted_vocabulary(values: pa.Array, spec: ResolvedInput, fitting: Fitting) -> Vocabulary:
    """The vocabulary of the spec's table, fitted on these values where none is there yet. Raises
    InputError where every value is null."""
    if values.null_count == len(values):
        raise InputError(
            f"{described(spec)} has no value in the {len(values):,} training rows; leave it out"
            " (skip), or check that its view has data at the times of the rows"
        )
    table = table_of(spec)
    if table not in fitting.vocabularies:
        options = cast(VocabularyOptions, spec.kind)
        fitting.vocabularies[table] = Vocabulary.fit(values, options, of=described(spec))
    found: Vocabulary = fitting.vocabularies[table]
    return found


def lookup_layout(spec: ResolvedInput, vocabulary: Vocabulary) -> SlotLayout:
    """The slot of an input whose value is one row of its vocabulary's table."""
    dropout = cast(VocabularyOptions, spec.kind).dropout
    return SlotLayout("lookup", (table_of(spec),), dropout=dropout, own=vocabulary.own)


def lookup_block(rows: np.ndarray) -> Block:
    """A block without dense columns."""
    return Block(np.empty((len(rows), 0), np.float32), (Lookup(rows),))


def counted_lookup(block: Block, vocabulary: Vocabulary) -> dict[str, int]:
    """Counts of a block of one lookup."""
    rows = cast(Lookup, block.slots[0]).rows
    absent = int(np.count_nonzero(rows == ABSENT))
    present = int(np.count_nonzero(rows >= vocabulary.own))
    return {"absent": absent, "unknown": len(rows) - absent - present, "present": present}


def described(spec: ResolvedInput) -> str:
    """The input and its columns, for messages."""
    columns = ", ".join(column.name for column in spec.columns.values())
    return f"input {spec.name!r} (column {columns})"
