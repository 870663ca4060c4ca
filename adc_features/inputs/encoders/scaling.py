"""Standardised numbers of which some are absent. Reads: float64 arrays with NaN for absent. Writes:
dense columns.

Legend: n rows.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.inputs.resolved import SourceColumn
from adc_features.inputs.rows import Parts

log = logging.getLogger(__name__)

BOUND = 5.0
"""Standard deviations beyond which a value is clipped."""
LARGEST = float(np.finfo(np.float32).max)
"""Beyond which a number is clipped that is not standardised."""
_CONSTANT = 1e-9


@dataclass(frozen=True)
class Scale:
    """mean and scale of the present training values, weighted as the loss is. scale: 1 for a
    constant column."""

    mean: float
    scale: float

    @classmethod
    def fit(cls, values: np.ndarray, weights: np.ndarray, *, of: str) -> Self:
        """From float64 [n], NaN = absent, and weights [n]. Raises InputError where no value is
        present; a constant column is logged."""
        present = ~np.isnan(values)
        if not present.any():
            raise InputError(
                f"{of} has no value in the {len(values):,} training rows; leave it out (skip), or"
                " check that its view has data at the times of the rows"
            )
        if not present.all():
            values, weights = values[present], weights[present]
        total = weights.sum()
        if not total > 0:  # every row with a value weighs nothing
            weights, total = np.ones(len(values)), float(len(values))
        if values.min() == values.max():
            mean, sd = float(values[0]), 0.0
        else:
            exponent = np.frexp(np.abs(values).max())[1]  # by powers of two, so that no square
            values = np.ldexp(values, -exponent)  # overflows and no digit changes
            centre = np.dot(weights, values) / total
            away = values - centre
            variance = np.dot(weights, away * away) / total
            mean, sd = (float(np.ldexp(v, exponent)) for v in (centre, np.sqrt(variance)))
        if sd < _CONSTANT:
            log.warning("%s constant=true value=%s scale=1", of, mean)
            sd = 1.0
        return cls(mean, sd)

    def dense(self, values: np.ndarray, *, into: np.ndarray) -> None:
        """Fill float32 [n, 2]: standardised and clipped, 0 where absent; and 1 where absent."""
        _fill(standardised(values, self.mean, self.scale, bound=BOUND), into=into)

    def facts(self) -> dict[str, Any]:
        return {"mean": self.mean, "scale": self.scale}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Self:
        return cls(float(facts["mean"]), float(facts["scale"]))


def standardised(
    values: np.ndarray,
    mean: np.ndarray | float,
    scale: np.ndarray | float,
    *,
    bound: np.ndarray | float,
) -> np.ndarray:
    """(values - mean) / scale, kept within +-bound; NaN stays NaN."""
    with np.errstate(over="ignore"):  # what overflows is clipped
        scaled = values - mean
        scaled /= scale
    np.maximum(scaled, -bound, out=scaled)
    np.minimum(scaled, bound, out=scaled)
    return scaled


def logarithm(values: np.ndarray) -> np.ndarray:
    """sign(x) log1p|x|."""
    return np.sign(values) * np.log1p(np.abs(values))


def stored_numbers(column: SourceColumn, parts: Parts) -> np.ndarray:
    """float64 [n] of a column, NaN where it is null or not finite, rounded to its declared type."""
    values = parts[column.side].column(column.name)
    if pa.types.is_decimal(values.type) or pa.types.is_null(values.type):
        values = values.cast(pa.float64())
    found = values.to_numpy(zero_copy_only=False)
    if column.dtype == "Float32" and found.dtype == np.float64:
        found = found.astype(np.float32)  # as it was declared: a store may have widened it
    found = found.astype(np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def fill(values: np.ndarray, *, into: np.ndarray) -> None:
    """Fill float32 [n, 2]: the values, 0 where they are NaN; and 1 where they are."""
    _fill(np.clip(values, -LARGEST, LARGEST), into=into)


def _fill(values: np.ndarray, *, into: np.ndarray) -> None:
    absent = np.isnan(values)
    into[:, 0] = values
    into[:, 1] = absent
    if absent.any():
        into[absent, 0] = 0


def counted_indicator(absent: np.ndarray) -> dict[str, int]:
    """Counts of [n] indicators."""
    missing = int(np.count_nonzero(absent))
    return {"absent": missing, "unknown": 0, "present": len(absent) - missing}
