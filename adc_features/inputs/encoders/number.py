"""Numbers: clip, logarithm, standardised, an indicator, and quantile bins. Reads: a numeric column.
Writes: two dense columns and a lookup.

Legend: n rows, K bin edges.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.inputs.declaration import Number
from adc_features.inputs.encoded import Block, InputLayout, Lookup, SlotLayout
from adc_features.inputs.encoders.base import Fitting, State
from adc_features.inputs.encoders.category import described
from adc_features.inputs.encoders.scaling import Scale, counted_indicator, fill, logarithm
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts


@dataclass(frozen=True)
class NumberEncoder:
    """clip -> sign(x) log1p|x| -> (x - mean) / sd -> +-5, all in float64, and float32 out.

    NaN and infinity in a feature are absent; in a request they are an error. Without `standardise`
    there is no scale and no clip at 5.

    edges: float64 [K], unique quantiles of the present training values, in their own unit; None
    without bins. The rows of its table: 0 absent, then 1 + searchsorted(edges, x, side="right").
    """

    spec: ResolvedInput
    scale: Scale | None
    edges: np.ndarray | None

    @classmethod
    def fit(cls, spec: ResolvedInput, parts: Parts, fitting: Fitting) -> Self:
        kind = cast(Number, spec.kind)
        if kind.clip is not None and not kind.clip[0] < kind.clip[1]:
            raise InputError(
                f"input {spec.name!r} has clip={kind.clip}; give (low, high) with low < high"
            )
        values = _clipped(kind, finite_numbers(spec, parts))
        scale = Scale.fit(_logged(kind, values), fitting.weights, of=described(spec))
        edges = None
        if kind.bins:
            present = values[~np.isnan(values)]
            edges = np.unique(np.quantile(present, np.arange(1, kind.bins) / kind.bins))
        return cls(spec, scale if kind.standardise else None, edges)

    @classmethod
    def restore(cls, spec: ResolvedInput, state: State, vocabularies: Mapping[str, Any]) -> Self:
        scale = Scale.of_facts(state.facts) if cast(Number, spec.kind).standardise else None
        return cls(spec, scale, state.arrays.get("edges"))

    @property
    def layout(self) -> InputLayout:
        name = self.spec.name
        slots = () if self.edges is None else (SlotLayout("lookup", (name,), own=1),)
        return InputLayout((name, f"{name}_absent"), {0: 1}, slots)

    @property
    def tables(self) -> dict[str, int]:
        """The bins' table: absent, and one row more than edges."""
        return {} if self.edges is None else {self.spec.name: len(self.edges) + 2}

    def encode(self, parts: Parts) -> Block:
        kind = cast(Number, self.spec.kind)
        values = _clipped(kind, finite_numbers(self.spec, parts))
        dense = np.empty((len(values), 2), np.float32)
        logged = _logged(kind, values)
        if self.scale is None:
            fill(logged, into=dense)
        else:
            self.scale.dense(logged, into=dense)
        if self.edges is None:
            return Block(dense)
        rows = 1 + np.searchsorted(self.edges, values, side="right")
        return Block(dense, (Lookup(np.where(dense[:, 1] == 1, 0, rows)),))

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block."""
        return counted_indicator(block.dense[:, 1])

    def counts(self, parts: Parts) -> dict[str, int]:
        """With "not_finite": how many of the absent are NaN or infinite."""
        values = numbers(self.spec, parts)
        finite = np.isfinite(values)
        stored = np.ones(len(values), bool)
        if (column := _column(self.spec, parts)).null_count:
            stored = column.is_valid().to_numpy(zero_copy_only=False)
        return {**counted_indicator(~finite), "not_finite": int((stored & ~finite).sum())}

    def state(self) -> State:
        facts = {} if self.scale is None else self.scale.facts()
        return State(facts, {} if self.edges is None else {"edges": self.edges})


def numbers(spec: ResolvedInput, parts: Parts) -> np.ndarray:
    """float64 [n] of the source column, NaN for null, rounded to its declared type."""
    source = spec.columns["source"]
    stored = parts[source.side].stored(source.name)
    if stored is not None and (found := stored.numbers()) is not None:
        return found  # in the declared type
    column = _column(spec, parts)
    type_ = column.type
    if not (pa.types.is_floating(type_) or pa.types.is_integer(type_)):
        if not (
            pa.types.is_null(type_)
            or pa.types.is_boolean(type_)
            or pa.types.is_decimal(type_)
            or source.dtype == "Decimal"
        ):
            raise InputError(
                f"{described(spec)} holds values of type {type_}, expected numbers; declare"
                " another kind, or convert the column"
            )
        column = _cast(spec, column)
    values = column.to_numpy(zero_copy_only=False)  # null becomes NaN, an integer then float64
    if source.dtype == "Float32" and values.dtype == np.float64:
        values = values.astype(np.float32)  # as it was declared: a store may have widened it
    return values.astype(np.float64, copy=False)


def finite_numbers(spec: ResolvedInput, parts: Parts) -> np.ndarray:
    """`numbers`, with NaN for infinity too. Raises InputError where a request sends either."""
    values = numbers(spec, parts)
    finite = np.isfinite(values)
    if finite.all():
        return values
    if spec.kind.request:
        _refuse_not_finite(spec, parts, values)
    return np.where(finite, values, np.nan)


def _refuse_not_finite(spec: ResolvedInput, parts: Parts, values: np.ndarray) -> None:
    stored = _column(spec, parts).is_valid().to_numpy(zero_copy_only=False)
    if len(places := np.flatnonzero(stored & ~np.isfinite(values))):
        raise InputError(
            f"{described(spec)} is {values[places[0]]} in row {places[0]}"
            f" ({len(places)} rows in all): a request's numbers are finite; send null where there"
            " is none"
        )


def _column(spec: ResolvedInput, parts: Parts) -> pa.Array:
    source = spec.columns["source"]
    return parts[source.side].column(source.name)


def _cast(spec: ResolvedInput, column: pa.Array) -> pa.Array:
    try:
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        return column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"{described(spec)} holds a value that is no number ({error}); mend it in its source"
        ) from error


def _clipped(kind: Number, values: np.ndarray) -> np.ndarray:
    return values if kind.clip is None else np.clip(values, *kind.clip)


def _logged(kind: Number, values: np.ndarray) -> np.ndarray:
    return logarithm(values) if kind.log else values
