"""Whether the values of a label log can be learned from. Reads: Arrow columns. Writes: arrays,
problems in words.

Legend: N rows, in the order of the source.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.event_times import timestamps
from adc_features.inputs.declaration import Task

_AT_ONCE = 1 << 18
"""About so many rows are compared at once: what they are counted in is wider than they are."""


def refuse(problems: Sequence[str], *, name: str) -> None:
    """Raise InputError that tells all problems, if there are any."""
    if len(problems) == 1:
        raise InputError(f"{name}: {problems[0]}")
    if problems:
        lines = "".join(f"\n- {problem}" for problem in problems)
        raise InputError(f"{name} has {len(problems)} problems:{lines}")


def first(rows: np.ndarray) -> int:
    """The first row of a mask."""
    return int(np.flatnonzero(rows)[0])


def number_column(column: pa.ChunkedArray) -> np.ndarray | None:
    """Booleans and numbers as float64 [N], NaN where null; None for what is no number."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_dictionary(kind):
        return number_column(column.cast(kind.value_type))
    if not (pa.types.is_boolean(kind) or _is_number(kind)):
        return None
    return column.cast(pa.float64(), safe=False).to_numpy()


def label_values(column: pa.ChunkedArray, task: str) -> tuple[np.ndarray, list[str]]:
    """Labels float32 [N], NaN where null, and what is wrong with them."""
    values = number_column(column)
    nothing = np.full(len(column), np.nan, np.float32)
    expected = "expected 0, 1 or null"
    if values is None:
        return nothing, [
            f"the labels of task {task!r} are of type {column.type}; {expected}, as booleans or"
            " numbers"
        ]
    wrong = ~((values == 0) | (values == 1) | np.isnan(values))
    if wrong.any():
        row = first(wrong)
        return nothing, [
            f"{int(wrong.sum())} labels of task {task!r} are not 0 or 1 (first:"
            f" {column[row].as_py()!r} in row {row}); {expected}, write the rule that makes them"
        ]
    return values.astype(np.float32), []


def one_class(labels: np.ndarray, task: str) -> list[str]:
    """What is wrong with the labels of a task as a whole: there must be both 0 and 1."""
    positives, known = int((labels == 1).sum()), int((~np.isnan(labels)).sum())
    if not known:
        return [f"task {task!r} has no label in these {len(labels)} rows: all are null"]
    if not positives:
        return [
            f"task {task!r} has no positive among {known} labels; choose a longer period, or leave"
            " the task out"
        ]
    if positives == known:
        return [
            f"the labels of task {task!r} are constant: all {known} are 1; give the rows that were"
            " shown and not taken too"
        ]
    return []


def known_times(
    column: pa.ChunkedArray, task: Task, labels: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """When positives became known, datetime64[us] [N] with NaT for null, and what is wrong."""
    nothing = np.full(len(times), np.datetime64("NaT", "us"))
    try:
        known = timestamps(column, name=str(task.known_at))
    except InputError as error:
        return nothing, [str(error)]
    found = known.cast(pa.timestamp("us")).to_numpy().astype("datetime64[us]")
    problems = []
    unknown = (labels == 1) & np.isnat(found)
    if unknown.any():
        problems.append(
            f"{int(unknown.sum())} positive labels of task {task.name!r} have no time in column"
            f" {task.known_at!r} (first: row {first(unknown)}); every positive needs one"
        )
    early = found < times
    if early.any():
        row = first(early)
        problems.append(
            f"{int(early.sum())} labels of task {task.name!r} were known before their row's time"
            f" (first: row {row} at {times[row]}, {task.known_at} {found[row]}); the row's time is"
            " the one at which features were read, the label comes after it"
        )
    return found, problems


def weight_values(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, list[str]]:
    """Sample weights float32 [N], and what is wrong with them."""
    values = number_column(column)
    if values is None:
        return np.ones(len(column), np.float32), [
            f"the weights in column {name!r} are of type {column.type}; expected numbers"
        ]
    wrong = ~(np.isfinite(values) & (values >= 0) & (values <= np.finfo(np.float32).max))
    if wrong.any():
        row = first(wrong)
        return values, [
            f"{int(wrong.sum())} weights in column {name!r} are missing, negative or not finite"
            f" (first: {column[row].as_py()!r} in row {row}); expected finite numbers >= 0"
        ]
    if not values.any():
        return values, [f"all weights in column {name!r} are 0; nothing would be learned"]
    return values.astype(np.float32), []


def doubled_rows(rows: pa.Table, times: np.ndarray) -> list[str]:
    """Rows that repeat another in all columns of `rows` at the same time: keys and request."""
    order = np.argsort(times, kind="stable")
    same = times[order][1:] == times[order][:-1]
    tied = np.concatenate([same, [False]]) | np.concatenate([[False], same])
    if not tied.any() or not rows.num_columns:
        return []
    surplus, example = 0, None
    for picked in _by_time(order[tied], times):  # others cannot be doubled
        rows_of = np.sort(picked)
        part = rows.take(pa.array(rows_of)).append_column("\0time", pa.array(times[rows_of]))
        counted = part.group_by(part.column_names).aggregate([([], "count_all")])
        doubled = counted.filter(pc.greater(counted["count_all"], 1))
        if len(doubled):
            surplus += pc.sum(doubled["count_all"]).as_py() - len(doubled)
            example = example or doubled.slice(0, 1).to_pylist()[0]
    if example is None:
        return []
    keys = ", ".join(f"{name}={example[name]!r}" for name in rows.column_names)
    return [
        f"{surplus} rows repeat another with the same keys, time and request (first: {keys} at"
        f" {example[chr(0) + 'time']}); drop them, or join by a request column that tells them"
        " apart"
    ]


def _by_time(rows: np.ndarray, times: np.ndarray) -> list[np.ndarray]:
    """Rows in the order of their times, some at a time; those of one time together."""
    moments = times[rows]
    begins = np.concatenate([[True], moments[1:] != moments[:-1]])
    begin = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0)) // _AT_ONCE
    return np.split(rows, np.flatnonzero(np.diff(begin)) + 1)


def split_requests(requests: np.ndarray, users: np.ndarray, column: str) -> list[str]:
    """Requests (int64 [N]) that several users (int64 [N]) share: ids that start anew for each
    user.
    """
    owner = np.zeros(int(requests.max(initial=-1)) + 1, np.int64)
    owner[requests[::-1]] = users[::-1]  # of the first row
    shared = owner[requests] != users
    if not shared.any():
        return []
    count = len(np.unique(requests[shared]))
    return [
        f"{count} requests of column {column!r} have rows of several users (first: row"
        f" {first(shared)}); a request is one user's, make its id unique across users"
    ]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
