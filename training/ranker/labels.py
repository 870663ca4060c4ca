"""Labelled rows of a ranker: who was shown what, when, and what came of it. Reads: a label log,
the schema of a service, a declared ranker. Writes: LabelLog.

Legend: N rows, T tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.clock import moment
from adc_features.errors import InputError
from adc_features.event_times import UTC_US, microseconds
from adc_features.inputs.column_types import arrow_type, feast_type, plain_type
from adc_features.inputs.declaration import Ranker, Task
from adc_features.inputs.schema import ServiceSchema
from training.ranker.label_checks import (
    doubled_rows,
    known_times,
    label_values,
    one_class,
    refuse,
    split_requests,
    weight_values,
)
from training.ranker.label_columns import (
    LabelColumns,
    key_columns,
    missing_columns,
    request_columns,
    type_problems,
)
from training.ranker.label_sources import (
    TIME,
    LabelSource,
    open_labels,
    source_name,
    time_column,
)
from training.ranker.ripening import TaskLabels, declared_window, given_order


@dataclass(frozen=True)
class TaskCounts:
    """What became of a task's rows at a cut-off.

    rows: in the log. missing: without a label. unripe: their window is not over. not_given: the
    task that this one is given is not positive. used: the rest, of which `positives` are 1. late:
    positives among the used that became known after their window, negatives for good.
    """

    rows: int
    missing: int
    unripe: int
    not_given: int
    used: int
    positives: int
    late: int


@dataclass(frozen=True)
class LabelLog:
    """Checked labelled rows, by time.

    Parameters
    ----------
    table : pyarrow.Table
        row_id int64 (0, 1, ... by time), the join keys, event_timestamp UTC, request fields, the
        request's id, one float32 column for each task's label (null for none), the times at which
        they became known, and weight float32 where weights were given.
    tasks : tuple of Task
        In the order of the ranker.
    keys, user : tuple of str
        Join keys; those that tell the user.
    request_types : mapping of str to str
        Request field -> Feast type.
    request : str, optional
        The column of request ids.
    """

    table: pa.Table
    tasks: tuple[Task, ...]
    keys: tuple[str, ...]
    user: tuple[str, ...]
    request_types: Mapping[str, str]
    request: str | None = None

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def times(self) -> np.ndarray:
        """datetime64[us] [N], increasing."""
        return microseconds(self.table[TIME]).astype("datetime64[us]")

    @cached_property
    def weights(self) -> np.ndarray:
        """float32 [N], 1 where none were given."""
        if "weight" in self.table.column_names:
            return self.table["weight"].to_numpy()
        return np.ones(len(self), np.float32)

    @cached_property
    def users(self) -> np.ndarray | None:
        """The number of each row's user, int64 [N]; None where no key tells the user."""
        return group_numbers(self.table, self.user) if self.user else None

    @cached_property
    def requests(self) -> np.ndarray | None:
        """The number of each row's request, int64 [N]; None without a column of requests."""
        return group_numbers(self.table, [self.request]) if self.request else None

    @property
    def entity_rows(self) -> pa.Table:
        """What a join of features is asked with: row_id, keys, event_timestamp, request fields."""
        return self.table.select(["row_id", *self.keys, TIME, *self.request_types])

    @cached_property
    def end(self) -> datetime:
        """The last time in the log, of a row or of a label that became known: whatever happened
        before it is taken to be in the log.
        """
        last = [self.times.max()]
        for labels in self._task_labels.values():
            if labels.known_at is not None and not np.isnat(labels.known_at).all():
                last.append(np.nanmax(labels.known_at))
        return moment(max(last))

    def windows(self, cutoff: datetime) -> dict[str, timedelta]:
        """Task -> its attribution window, declared or observed before the cut-off."""
        return {
            name: labels.window(self.times, cutoff) for name, labels in self._task_labels.items()
        }

    def labels(
        self, cutoff: datetime, *, windows: Mapping[str, timedelta] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """What is known at a cut-off: labels float32 [T, N] (0 where masked), mask bool [T, N].

        windows: those of `windows(cutoff)` by default; pass those of the training cut-off for
        later rows.
        """
        found = self._given_labels(cutoff, windows)
        labels, masks = zip(*(found[task.name] for task in self.tasks), strict=True)
        return np.stack(labels), np.stack(masks)

    def counts(
        self, cutoff: datetime, *, windows: Mapping[str, timedelta] | None = None
    ) -> dict[str, TaskCounts]:
        """Task -> what became of its rows at a cut-off."""
        windows = self.windows(cutoff) if windows is None else windows
        final, counts = self._given_labels(cutoff, windows), {}
        for name, task in self._task_labels.items():
            labels, used = final[name]
            _, ripe = task.at(self.times, windows[name], cutoff)
            missing = int(np.isnan(task.values).sum())
            counts[name] = TaskCounts(
                rows=len(self),
                missing=missing,
                unripe=len(self) - missing - int(ripe.sum()),
                not_given=int(ripe.sum() - used.sum()),
                used=int(used.sum()),
                positives=int(labels.sum()),
                late=int((task.late(self.times, windows[name]) & used).sum()),
            )
        return counts

    def take(self, rows: np.ndarray) -> "LabelLog":
        """These rows (int64, increasing); they keep their row_id."""
        return replace(self, table=self.table.take(pa.array(rows)))

    @cached_property
    def _task_labels(self) -> dict[str, TaskLabels]:
        return {
            task.name: TaskLabels(
                task,
                self.table[task.column or task.name].to_numpy(),
                _instants(self.table[task.known_at]) if task.known_at else None,
            )
            for task in self.tasks
        }

    def _given_labels(
        self, cutoff: datetime, windows: Mapping[str, timedelta] | None
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        windows = self.windows(cutoff) if windows is None else windows
        found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for task in given_order(self.tasks):
            labels, mask = self._task_labels[task.name].at(self.times, windows[task.name], cutoff)
            if task.given is not None:
                given, defined = found[task.given]
                mask = mask & defined & (given > 0)
            found[task.name] = np.where(mask, labels, np.float32(0)), mask
        return found


def read_labels(
    source: LabelSource,
    *,
    schema: ServiceSchema,
    ranker: Ranker,
    start: datetime | None = None,
    end: datetime | None = None,
) -> LabelLog:
    """The rows of a label log with start <= time < end, checked and by time.

    Parameters
    ----------
    source : Path, str, SqlLabels or frame
        A Parquet file or directory, a table or SELECT of a database, or a pandas, Arrow or polars
        frame.
    schema : ServiceSchema
        Of the service that features will be joined from: its join keys and request fields.
    ranker : Ranker
        Its tasks, request fields, request and weight columns.
    start, end : datetime, optional
        Aware.

    Raises
    ------
    InputError
        When columns are missing or of other types than the service's, or values cannot be learned
        from. All problems of a kind are told at once, those of columns before any row is read.
    """
    name = source_name(source)
    given_order(ranker.tasks)
    for task in ranker.tasks:
        declared_window(task)
    scan = open_labels(source)
    columns = _columns(scan.schema, ranker, schema, name=name)
    refuse(missing_columns(columns, scan.schema.names), name=name)
    refuse(type_problems(columns, scan.schema), name=name)
    rows = scan.table(columns.names, time=columns.time, start=start, end=end)
    if not len(rows):
        period = " in this period" if start or end else ""
        raise InputError(f"{name} has no rows{period}; check the source, start and end")
    return _checked(rows, columns, ranker, name=name)


def group_numbers(table: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """The number of each row's combination of values: int64 [N], from 0."""
    numbers = np.zeros(len(table), np.int64)
    for name in columns:
        codes = encoded_column(table[name]).indices.to_numpy().astype(np.int64)
        numbers = numbers * (int(codes.max(initial=0)) + 1) + codes
        if len(columns) > 1:
            numbers = np.unique(numbers, return_inverse=True)[1]
    return numbers


def encoded_column(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """A column as its distinct values, in the order in which they appear, and their numbers."""
    encoded = pc.dictionary_encode(column, null_encoding="encode")
    whole = encoded.unify_dictionaries().combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def check_matched(joined: pa.Table, schema: ServiceSchema) -> dict[str, float]:
    """Projected view -> share of joined rows for which it has a value, of views that have keys.

    Raises InputError when a view has none for any row: the keys of the label log are not those of
    the store, or its rows are older than the view's.
    """
    return matched_shares(matched_rows(joined, schema), joined, schema, rows=len(joined))


def matched_rows(joined: pa.Table, schema: ServiceSchema) -> dict[str, int]:
    """Projected view -> joined rows for which it has a value, of views that have keys."""
    counts = {}
    for view in schema.views:
        columns = [
            f.key
            for f in schema.features
            if f.view == view.projected and f.key in joined.column_names
        ]
        if not columns or not view.join_keys or view.kind == "on_demand" or not len(joined):
            continue
        found = np.zeros(len(joined), bool)
        for column in columns:
            found |= np.asarray(joined[column].is_valid())
        counts[view.projected] = int(found.sum())
    return counts


def matched_shares(
    counts: Mapping[str, int], some: pa.Table, schema: ServiceSchema, *, rows: int
) -> dict[str, float]:
    """Shares of so many rows, from `matched_rows`; raises as `check_matched`. some: a row or more,
    of which the first is an example."""
    problems = []
    for view in schema.views:
        if counts.get(view.projected) == 0:
            keys = [k for k in view.join_keys if k in some.column_names]
            example = some.select(keys).slice(0, 1).to_pylist()[0]
            problems.append(
                f"view {view.projected} has a value for 0 % of {rows} rows; compare its keys"
                f" with those of the log (first: {example}), and its times with the log's"
            )
    refuse(problems, name="the joined rows")
    return {view: count / rows for view, count in counts.items()}


def _columns(
    schema: pa.Schema, ranker: Ranker, service: ServiceSchema, *, name: str
) -> LabelColumns:
    keys, requests = key_columns(ranker, service), request_columns(ranker, service)
    known_at = tuple(task.known_at or "" for task in ranker.tasks)
    return LabelColumns(
        time=time_column(schema, {*known_at, *requests, *keys}, name=name),
        keys=keys,
        requests={c: t for c, t in requests.items() if c not in keys and c != TIME},
        labels=tuple(task.column or task.name for task in ranker.tasks),
        known_at=known_at,
        request=ranker.request,
        weight=ranker.sample_weight,
    )


def _checked(rows: pa.Table, columns: LabelColumns, ranker: Ranker, *, name: str) -> LabelLog:
    times = microseconds(rows[columns.time], name=columns.time).astype("datetime64[us]")
    for edge in (times.min(), times.max()):
        moment(edge)  # years that datetimes have
    typed, problems = _typed(rows, {**columns.requests, **columns.keys})
    problems += _null_problems(rows, columns)
    out = {key: typed[key] for key in columns.keys if key in typed}
    out |= {TIME: pa.array(times).cast(UTC_US)}
    out |= {field: typed[field] for field in columns.requests if field in typed}
    if columns.request and columns.request not in out:
        request = rows[columns.request]
        out[columns.request] = request.cast(plain_type(request.type))
    for task, column, known in zip(ranker.tasks, columns.labels, columns.known_at, strict=True):
        labels, wrong = label_values(rows[column], task.name)
        problems += wrong or one_class(labels, task.name)
        out[column] = pa.array(labels, from_pandas=True)
        if known:
            found, wrong = known_times(rows[known], task, labels, times)
            problems += wrong
            out[known] = pa.array(found).cast(UTC_US)
    if columns.weight:
        weights, wrong = weight_values(rows[columns.weight], columns.weight)
        problems += wrong
        out["weight"] = pa.array(weights)
    table = pa.table(out)
    identity = [c for c in (*columns.keys, columns.request) if c in out]
    problems += doubled_rows(table.select(list(dict.fromkeys(identity))), times)
    if columns.request and ranker.user and set(ranker.user) <= set(out):
        numbers = group_numbers(table, [columns.request])
        users = group_numbers(table, ranker.user)
        problems += split_requests(numbers, users, columns.request)
    refuse(problems, name=name)
    if (np.diff(times) < np.timedelta64(0, "us")).any():
        table = table.take(pa.array(np.argsort(times, kind="stable")))
    table = table.add_column(0, "row_id", pa.array(np.arange(len(table))))
    requests = {c: t or feast_type(rows[c].type) or "" for c, t in columns.requests.items()}
    return LabelLog(
        table,
        tuple(ranker.tasks),
        tuple(columns.keys),
        tuple(ranker.user),
        requests,
        columns.request,
    )


def _typed(
    rows: pa.Table, types: Mapping[str, str | None]
) -> tuple[dict[str, pa.ChunkedArray], list[str]]:
    """Keys and request fields in the Arrow types of the service, and what does not fit them."""
    typed, problems = {}, []
    for name, dtype in types.items():
        kind = arrow_type(rows[name].type, dtype)
        try:
            typed[name] = rows[name].cast(kind, safe=not pa.types.is_floating(kind))
        except pa.ArrowInvalid as error:
            problems.append(f"column {name!r} does not fit the service's {dtype} ({error})")
    return typed, problems


def _null_problems(rows: pa.Table, columns: LabelColumns) -> list[str]:
    names = [*columns.keys, *([columns.request] if columns.request else [])]
    return [
        f"{rows[name].null_count} rows have no {name!r}; drop them, or name what they stand for"
        for name in dict.fromkeys(names)
        if rows[name].null_count
    ]


def _instants(column: pa.ChunkedArray) -> np.ndarray:
    """A UTC column as datetime64[us] [N], NaT for null."""
    return column.cast(pa.timestamp("us")).to_numpy().astype("datetime64[us]")
