"""Moments of the elements of lists beside those of their rows. Reads: Arrow arrays. Writes: whole
seconds.

Legend: n rows, T elements of all rows' lists.
"""

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError, LeakError
from adc_features.inputs.encoders.category import described
from adc_features.inputs.lists import Lists
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import FeatureRows

_SECOND = 1_000_000


def microseconds(times: pa.Array) -> np.ndarray:
    """Since 1970, int64, of timestamps or of integers that are microseconds."""
    if pa.types.is_timestamp(times.type):
        times = times.cast(pa.timestamp("us", times.type.tz), safe=False)
    return times.cast(pa.int64()).to_numpy(zero_copy_only=False)


def element_seconds(times: pa.Array, spec: ResolvedInput) -> np.ndarray:
    """Of each element, int64 [T]. Raises InputError for what are no times."""
    if not (pa.types.is_timestamp(times.type) or pa.types.is_integer(times.type)):
        raise InputError(
            f"{described(spec)}: {spec.columns['times'].name} holds {times.type}; expected"
            " timestamps, or integers in microseconds since 1970 UTC"
        )
    return microseconds(times) // _SECOND


def row_seconds(rows: FeatureRows) -> np.ndarray:
    """Of each row, int64 [n]."""
    return rows.times.astype("datetime64[us]").astype(np.int64) // _SECOND


def refuse_later_elements(lists: Lists, rows: FeatureRows, spec: ResolvedInput) -> None:
    """Raise LeakError where an element of the role "times" is later than its row."""
    times = element_seconds(lists.columns["times"], spec)
    late = times > row_seconds(rows)[lists.row] + 1
    if late.any():
        first = int(np.argmax(late))
        row = int(lists.row[first])
        what = next(iter(lists.columns))
        raise LeakError(
            f"{described(spec)}: row {row} is of {rows.times[row]}, and its history holds"
            f" {lists.columns[what][first]} of {np.datetime64(int(times[first]), 's')}; a history"
            " ends before its row, correct the view's event times or the list"
        )
