"""What a stored total says of events that are not recent. Reads: a number of events or their mean,
a list of the recent ones with their times. Writes: two dense columns.

Legend: n rows, T elements of all rows' lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa

from adc_features.inputs.declaration import Remainder
from adc_features.inputs.encoded import Block, InputLayout
from adc_features.inputs.encoders.base import Fitting, State
from adc_features.inputs.encoders.category import described
from adc_features.inputs.encoders.moments import (
    element_seconds,
    refuse_later_elements,
    row_seconds,
)
from adc_features.inputs.encoders.scaling import Scale, counted_indicator, stored_numbers
from adc_features.inputs.lists import Lists, read_lists
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts

_DAY = 86_400


@dataclass(frozen=True)
class RemainderEncoder:
    """total - young events, standardised, and an indicator.

    An event is young where row time - event time < days. Of a mean: (mean * (count + smoothing) -
    sum of young values) / (count - young + smoothing), absent where count <= young. A list that is
    absent holds no event.
    """

    spec: ResolvedInput
    scale: Scale

    @classmethod
    def fit(cls, spec: ResolvedInput, parts: Parts, fitting: Fitting) -> Self:
        return cls(spec, Scale.fit(_older(spec, parts), fitting.weights, of=described(spec)))

    @classmethod
    def restore(cls, spec: ResolvedInput, state: State, vocabularies: Mapping[str, Any]) -> Self:
        return cls(spec, Scale.of_facts(state.facts))

    @property
    def layout(self) -> InputLayout:
        return InputLayout((self.spec.name, f"{self.spec.name}_absent"), {0: 1})

    def encode(self, parts: Parts) -> Block:
        older = _older(self.spec, parts)
        dense = np.empty((len(older), 2), np.float32)
        self.scale.dense(older, into=dense)
        return Block(dense)

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block."""
        return counted_indicator(block.dense[:, 1])

    def counts(self, parts: Parts) -> dict[str, int]:
        """With "null_elements": how many were dropped."""
        dropped = _recent(self.spec, parts).dropped
        return self.counted(self.encode(parts)) | {"null_elements": dropped}

    def state(self) -> State:
        return State(self.scale.facts(), {})


def _older(spec: ResolvedInput, parts: Parts) -> np.ndarray:
    """float64 [n], NaN for absent."""
    kind, lists = cast(Remainder, spec.kind), _recent(spec, parts)
    rows = parts[spec.columns["times"].side]
    refuse_later_elements(lists, rows, spec)
    age = row_seconds(rows)[lists.row] - element_seconds(lists.columns["times"], spec)
    young = (age < kind.days * _DAY).astype(np.float64)
    gone = np.bincount(lists.row, young, len(lists))
    total = stored_numbers(spec.columns["source"], parts)
    if "count" not in spec.columns:
        left = np.maximum(total - gone, 0.0)
        return np.log1p(left) if kind.log else left
    count = stored_numbers(spec.columns["count"], parts)
    values = lists.columns["values"].to_numpy(zero_copy_only=False).astype(np.float64)
    rest = total * (count + kind.smoothing) - np.bincount(lists.row, young * values, len(lists))
    left = count - gone
    return np.where(left > 0, rest / np.maximum(left + kind.smoothing, 1e-12), np.nan)


def _recent(spec: ResolvedInput, parts: Parts) -> Lists:
    roles = [role for role in ("times", "values") if role in spec.columns]
    columns: dict[str, pa.Array] = {
        role: parts[spec.columns[role].side].column(spec.columns[role].name) for role in roles
    }
    return read_lists(columns, name=described(spec))
