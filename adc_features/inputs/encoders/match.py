"""How often the user's recent values equal the candidate's. Reads: a list of the user's, a value of
the candidate's. Writes: one number.

Legend: n rows of lists, n = N or 1; N candidates, T elements of all rows' lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.inputs.declaration import Match
from adc_features.inputs.encoded import Block, InputLayout
from adc_features.inputs.encoders.base import Fitting, State
from adc_features.inputs.encoders.category import described
from adc_features.inputs.encoders.matches import smoothed_mean, sums_of_equal
from adc_features.inputs.encoders.scaling import Scale, counted_indicator, fill
from adc_features.inputs.lists import Lists, coded, places, read_lists
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts


@dataclass(frozen=True)
class MatchEncoder:
    """sum / (matches + smoothing) over the elements of a list that equal the candidate's value.

    The sum counts what `values` holds beside each element, 1 where it is not named, and less the
    user's own smoothed mean where it is centred. Absent where the list or the candidate's value is.
    An empty text stands for no value and equals nothing: a list cannot hold a null. scale: None
    where it is not standardised.
    """

    spec: ResolvedInput
    scale: Scale | None = None

    @classmethod
    def fit(cls, spec: ResolvedInput, parts: Parts, fitting: Fitting) -> Self:
        if _kind(spec).smoothing < 0:
            raise InputError(
                f"{described(spec)} has smoothing {_kind(spec).smoothing}, expected at least 0"
            )
        found = cls(spec)._sums(parts)  # refuses what cannot be read
        if not _kind(spec).standardise:
            return cls(spec)
        return cls(spec, Scale.fit(found, fitting.weights, of=described(spec)))

    @classmethod
    def restore(cls, spec: ResolvedInput, state: State, vocabularies: Mapping[str, Any]) -> Self:
        return cls(spec, Scale.of_facts(state.facts) if _kind(spec).standardise else None)

    @property
    def layout(self) -> InputLayout:
        return InputLayout((self.spec.name, f"{self.spec.name}_absent"), {0: 1})

    def encode(self, parts: Parts) -> Block:
        found = self._sums(parts)
        dense = np.empty((len(found), 2), np.float32)
        if self.scale is None:
            fill(found, into=dense)
        else:
            self.scale.dense(found, into=dense)
        return Block(dense)

    def _sums(self, parts: Parts) -> np.ndarray:
        """float64 [N], NaN where absent."""
        lists, candidate, absent = self._read(parts)
        kind, one = _kind(self.spec), np.ones(int(lists.offsets[-1]))
        worth = one
        if "values" in lists.columns:
            worth = np.asarray(lists.columns["values"]).astype(np.float64)
        if kind.centred:
            mean = smoothed_mean(worth, lists.row, lists.sizes, smoothing=kind.smoothing, prior=0.0)
            worth = worth - mean[lists.row]
        elements, distinct = coded(lists.columns["source"])
        wanted = places(candidate, distinct, name=described(self.spec))
        if pa.types.is_string(candidate.type):
            named = pc.not_equal(candidate, "").fill_null(False)
            wanted = np.where(named.to_numpy(zero_copy_only=False), wanted, -1)
        wanted = np.broadcast_to(wanted, absent.shape)[:, None]
        total, matches = (
            sums[:, 0]
            for sums in sums_of_equal(
                elements[:, None] + 1, lists.offsets, wanted + 1, worths=[worth, one]
            )
        )
        smoothed = total / np.maximum(matches + kind.smoothing, 1e-12)
        return np.where(absent, np.nan, smoothed)

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block."""
        return counted_indicator(block.dense[:, 1])

    def counts(self, parts: Parts) -> dict[str, int]:
        """With "null_elements": how many were dropped."""
        return self.counted(self.encode(parts)) | {"null_elements": self._read(parts)[0].dropped}

    def state(self) -> State:
        return State({} if self.scale is None else self.scale.facts(), {})

    def _read(self, parts: Parts) -> tuple[Lists, Any, np.ndarray]:
        """Lists, the candidates' values, and which of the N rows are absent."""
        columns = self.spec.columns
        lists = read_lists(
            {
                role: parts[columns[role].side].column(columns[role].name)
                for role in ("source", "values")
                if role in columns
            },
            name=described(self.spec),
        )
        theirs = columns["candidate"]
        candidate = parts[theirs.side].column(theirs.name)
        missing = candidate.is_null().to_numpy(zero_copy_only=False)
        return lists, candidate, missing | lists.absent


def _kind(spec: ResolvedInput) -> Match:
    assert isinstance(spec.kind, Match)
    return spec.kind
