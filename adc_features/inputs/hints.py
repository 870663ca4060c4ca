"""What a sample of joined rows says of an input: share missing, hints. Reads: Arrow columns.
Writes: words.

Hints never choose: a person does, in the declaration.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.inputs import declaration as d
from adc_features.inputs.kind_rules import INTEGERS
from adc_features.inputs.resolved import ResolvedInput

FEW = 50
"""Distinct integers that look like names of things rather than amounts."""
SKEWED = 100.0
"""p99 / median from which a logarithm is worth a thought."""
UNIQUE = 0.9
"""Share of distinct values from which a category tells rows apart and little else."""


def share_missing(column: pa.Array | pa.ChunkedArray) -> float | None:
    """Share of rows that are null, or NaN; None for no rows."""
    if not len(column):
        return None
    gone = pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))
    return float(pc.mean(gone.cast(pa.float64())).as_py())


def hint(resolved: ResolvedInput, column: pa.Array | pa.ChunkedArray) -> str:
    """What a person should look at, or nothing. column: of the input's source."""
    present = column.drop_null()
    if not len(column):
        return ""
    if not len(present):
        return "never there: are the keys and times right?"
    kind = resolved.kind
    if isinstance(kind, d.Number) and pa.types.is_primitive(present.type):
        return _number_hint(kind, resolved.columns["source"].dtype, present)
    if isinstance(kind, d.Category):
        return _category_hint(kind, present)
    return ""


def _number_hint(kind: d.Number, dtype: str, present: pa.Array | pa.ChunkedArray) -> str:
    values = np.asarray(present).astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return "never finite"
    distinct = len(np.unique(values))
    if distinct == 1:
        return f"always {values[0]:g}: skip?"
    if set(np.unique(values)) == {0.0, 1.0} and dtype in INTEGERS:
        return "0 or 1: flag?"
    if dtype in INTEGERS and distinct <= FEW and distinct < len(values) / 4:
        return f"{distinct} distinct integers: category?"
    median, high = np.quantile(np.abs(values), (0.5, 0.99))
    if not kind.log and median > 0 and high / median >= SKEWED:
        return f"p99/median {high / median:.0f}: log?"
    return ""


def _category_hint(kind: d.Category, present: pa.Array | pa.ChunkedArray) -> str:
    counts = pc.value_counts(present)
    sizes = np.asarray(counts.field("counts"))
    if len(sizes) == 1:
        return "one value: skip?"
    if len(present) >= FEW and len(sizes) > UNIQUE * len(present):
        return "nearly every row has a value of its own: skip?"
    if len(present) >= 10 * kind.min_count and sizes.max() < kind.min_count and not kind.buckets:
        return f"no value is met {kind.min_count} times: lower min_count, or buckets?"
    return ""


def keys_by_log(table: pa.Table, keys: Sequence[str], request: str) -> Mapping[str, list[str]]:
    """Join keys that are constant within every request, and the others: {"user", "item"}."""
    sides: dict[str, list[str]] = {"user": [], "item": []}
    for key in keys:
        pairs = (
            table.select([request, key]).group_by([request]).aggregate([(key, "count_distinct")])
        )
        constant = pc.max(pairs[f"{key}_count_distinct"]).as_py() in (None, 0, 1)
        sides["user" if constant else "item"].append(key)
    return sides
