"""Which class encodes an input, and which inputs share a table. Reads: ResolvedInput, Parts.
Writes: the values and options that a vocabulary is fitted with.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, cast

import pyarrow as pa

from adc_features.errors import InputError
from adc_features.inputs.counting import id_values
from adc_features.inputs.declaration import ItemHistory
from adc_features.inputs.encoders.base import table_of
from adc_features.inputs.kinds import VocabularyOptions
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts

ENCODERS: Mapping[str, tuple[str, str]] = {
    "Number": ("number", "NumberEncoder"),
    "Category": ("category", "CategoryEncoder"),
    "Flag": ("flag", "FlagEncoder"),
    "Time": ("time", "TimeEncoder"),
    "Vector": ("vector", "VectorEncoder"),
    "Cross": ("cross", "CrossEncoder"),
    "CategorySet": ("category_set", "CategorySetEncoder"),
    "CategorySequence": ("category_sequence", "CategorySequenceEncoder"),
    "ItemHistory": ("item_history", "ItemHistoryEncoder"),
    "SemanticId": ("semantic_id", "SemanticIdEncoder"),
    "Match": ("match", "MatchEncoder"),
    "Remainder": ("remainder", "RemainderEncoder"),
}
"""Class of a declaration -> the module below `encoders` and the class that encodes it."""


def class_of(spec: ResolvedInput) -> Any:
    """The encoder's class."""
    module, name = ENCODERS[type(spec.kind).__name__]
    return getattr(import_module(f"adc_features.inputs.encoders.{module}"), name)


def shared_tables(specs: Iterable[ResolvedInput]) -> dict[str, list[ResolvedInput]]:
    """Table -> the inputs whose values its vocabulary is fitted on."""
    found: dict[str, list[ResolvedInput]] = {}
    for spec in specs:
        if _fits_vocabulary(spec):
            found.setdefault(table_of(spec), []).append(spec)
    return found


def _fits_vocabulary(spec: ResolvedInput) -> bool:
    """Whether the input's values enter a vocabulary. A history that shares no table by name reads
    the candidate's, as it is."""
    kind = spec.kind
    if isinstance(kind, ItemHistory) and (kind.codes or kind.share is None):
        return False
    return isinstance(kind, VocabularyOptions)


def table_values(
    group: Sequence[ResolvedInput], parts: Parts, seen: Mapping[str, Parts]
) -> pa.Array | pa.ChunkedArray:
    """The values of all inputs of a table."""
    chunks = []
    for spec in group:
        values = class_of(spec).values(spec, seen.get(spec.name, parts))
        of = described_all([spec])
        whole = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
        chunks += [id_values(chunk, of=of) for chunk in whole]
    types = {chunk.type for chunk in chunks if not pa.types.is_null(chunk.type)}
    if len(types) > 1:
        raise InputError(
            f"{described_all(group)} share a table, but hold values of type"
            f" {' and '.join(sorted(map(str, types)))}; 12 is not '12': convert one of them, or"
            " give each a table of its own"
        )
    type_ = next(iter(types), pa.null())
    return pa.chunked_array([chunk.cast(type_) for chunk in chunks], type_)


def agreed_options(group: Sequence[ResolvedInput], table: str) -> VocabularyOptions:
    """The options that all inputs of a table state. Raises InputError where they differ."""
    first = cast(VocabularyOptions, group[0].kind)
    for spec in group[1:]:
        other = cast(VocabularyOptions, spec.kind)
        for option in ("min_count", "max_size", "buckets"):
            one, two = getattr(first, option), getattr(other, option)
            if one != two:
                raise InputError(
                    f"inputs {group[0].name!r} and {spec.name!r} share table {table!r} with"
                    f" {option}={one} and {option}={two}; state the same for both"
                )
    return first


def described_all(group: Sequence[ResolvedInput]) -> str:
    """Inputs with their columns, for messages."""
    return " and ".join(
        f"input {s.name!r} (column {', '.join(c.name for c in s.columns.values())})" for s in group
    )
