"""A view's Parquet files, opened once for all readers. Reads: Parquet. Writes: columns; no feast.

Every file is read by its own schema, then its columns are brought into the declared types: neither
the order of the files nor what the first of them holds decides anything. Files of one schema that
stand side by side are scanned as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from adc_features.damage import READ_ERRORS
from adc_features.errors import ArtifactError, InputError
from adc_features.event_times import UTC_US, is_time, time_bounds
from adc_features.input_files import InputFiles
from adc_features.store.casts import MISFITS, family, fitted
from adc_features.uris import storage_error

if TYPE_CHECKING:
    import pyarrow.dataset as ds

DAMAGED = "the file is damaged or half-written, write it again"
_WHOLE = {"batch_size": 1 << 30, "use_threads": False}


@dataclass(frozen=True)
class Declared:
    """What a view says of its columns, by their names in the files.

    types: of features and keys; columns without one take the widest type of the files. keys: the
    join keys. times: event time and created time, which become timestamp[us, UTC]; the first is
    the event time. seconds: features of times, which are cut to whole seconds.
    """

    types: Mapping[str, pa.DataType]
    keys: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    seconds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """Neighbouring files of one schema. texts: columns that are names of directories."""

    files: ds.FileSystemDataset
    texts: tuple[str, ...]

    @property
    def first(self) -> str:
        """A file to name in messages about all of them."""
        return self.files.files[0] if self.files.files else "no file"

    def kind(self, name: str) -> pa.DataType | None:
        """The type that a column has here; None when it is not here."""
        place = self.files.schema.get_field_index(name)
        return None if place < 0 else self.files.schema.field(place).type


class Source:
    """Files under `path`, in runs. of: what they are called in messages; advice: what to do about
    one that cannot be read. held: what lives as long as the files are read. inputs: tells whether
    the files are still what they were when they were opened; none of those that never change.
    """

    def __init__(
        self,
        of: str,
        path: str,
        runs: Sequence[Run],
        declared: Declared,
        *,
        advice: str = DAMAGED,
        held: Any = None,
        inputs: Sequence[InputFiles] = (),
    ) -> None:
        self.of, self.path, self.runs, self.declared = of, path, tuple(runs), declared
        self._advice, self._held, self.inputs = advice, held, tuple(inputs)
        self._kinds: dict[str, pa.DataType] = {}

    @cached_property
    def names(self) -> list[str]:
        """The columns of any file, in the order in which they are met."""
        return list(dict.fromkeys(name for run in self.runs for name in run.files.schema.names))

    @property
    def partitions(self) -> list[str]:
        """The columns that are names of directories."""
        return list(dict.fromkeys(name for run in self.runs for name in run.texts))

    def kind(self, name: str) -> pa.DataType:
        """The type of a column in all answers.

        Raises InputError when the files have no common one.
        """
        if name not in self._kinds:
            if name in self.declared.times:
                self._kinds[name] = UTC_US
            else:
                self._kinds[name] = self.declared.types.get(name) or self._common(name)
        return self._kinds[name]

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """The columns with their types."""
        return pa.schema([(name, self.kind(name)) for name in names])

    def check(self, names: Sequence[str]) -> None:
        """Raise InputError for columns that no file has, and for types that never fit."""
        if missing := sorted(set(names) - set(self.names)):
            raise InputError(
                f"{self.of}: {self.path} has no column {', '.join(missing)}; it has {self.names},"
                " correct the view's schema or field mapping"
            )
        for name in names:
            if name in self.declared.times:
                self._check_time(name)
            elif name in self.declared.keys:
                self._check_key(name)
            self.kind(name)

    def within(self, *, start: datetime | None = None, end: datetime | None = None) -> Source:
        """Only row groups that may hold rows between the times: no row is left out, none copied."""
        if start is None and end is None:
            return self
        runs = []
        for run in self.runs:
            keep = self._bounds(run, start, end)
            found = [part.subset(keep) for part in run.files.get_fragments(filter=keep)]
            runs.append(replace(run, files=_dataset(found, run.files.schema, run.files)))
        kept = {"advice": self._advice, "held": self._held, "inputs": self.inputs}
        return Source(self.of, self.path, runs, self.declared, **kept)

    def groups(self) -> list[tuple[Run, Any]]:
        """The row groups that have rows, in order, each with its run."""
        return [
            (run, group)
            for run in self.runs
            for part in run.files.get_fragments()
            for group in part.split_by_row_group()
            if group.row_groups[0].num_rows
        ]

    def part(self, group: tuple[Run, Any], names: Sequence[str]) -> Source:
        """One row group as a source by itself, these columns in the types that all files have."""
        run, rows = group
        one = replace(run, files=_dataset([rows], run.files.schema, run.files))
        part = Source(self.of, self.path, [one], self.declared)
        part._kinds = {name: self.kind(name) for name in names}
        return part

    def column(
        self, group: tuple[Run, Any], name: str, *, head: int | None = None
    ) -> pa.ChunkedArray:
        """One column of one row group, or of its first rows."""
        run, rows = group
        there = [name] if run.kind(name) is not None else []
        with self.reading():
            if head is None and there and _is_mapped(rows):
                found = _decoded_here(rows, name)
            else:
                options = _WHOLE if head is None else {}
                scanner = rows.scanner(run.files.schema, columns=there, **options)
                found = scanner.to_table() if head is None else scanner.head(head)
        return self._fitted(run, found, [name])[name]

    def tables(
        self,
        names: Sequence[str],
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        whole: bool = False,
    ) -> Iterator[pa.Table]:
        """Rows with start <= event time <= end in pieces, at least one; whole: one for each run."""
        yield self.schema(names).empty_table()
        for run in self.runs:
            there = [name for name in names if run.kind(name) is not None]
            options = {"columns": there, "filter": self._bounds(run, start, end)}
            if whole:
                with self.reading():
                    found = run.files.to_table(**options)
                yield self._fitted(run, found, names)
                continue
            pieces = iter(run.files.to_batches(**options))
            while True:
                with self.reading():
                    batch = next(pieces, None)
                if batch is None:
                    break
                if len(batch):
                    yield self._fitted(run, pa.Table.from_batches([batch]), names)

    def table(
        self, names: Sequence[str], *, start: datetime | None = None, end: datetime | None = None
    ) -> pa.Table:
        """The same rows in one table."""
        return pa.concat_tables(self.tables(names, start=start, end=end, whole=True))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise ArtifactError for files that cannot be read."""
        try:
            yield
        except READ_ERRORS as error:
            raise storage_error(error, self.path) or ArtifactError(
                f"{self.of}: {self.path} cannot be read ({error}); {self._advice}"
            ) from error

    def _bounds(self, run: Run, start: datetime | None, end: datetime | None) -> Any:
        time = self.declared.times[0] if self.declared.times else None
        kind = None if time is None else run.kind(time)
        return None if kind is None else time_bounds(kind, str(time), start=start, end=end)

    def _fitted(self, run: Run, table: pa.Table, names: Sequence[str]) -> pa.Table:
        """Columns in their types; those that the files of a run lack are null."""
        columns = {}
        for name in names:
            kind = self.kind(name)
            if run.kind(name) is None:
                columns[name] = pa.chunked_array([pa.nulls(len(table), kind)])
                continue
            try:
                declared, text = name in self.declared.types, name in run.texts
                seconds = name in self.declared.seconds
                columns[name] = fitted(
                    table[name],
                    kind,
                    name=f"{self.of}: {name}",
                    whole_lists=declared,
                    spelled=text,
                    seconds=seconds,
                )
            except MISFITS as error:
                there = "in the view" if name in self.declared.types else "in other files"
                raise InputError(
                    f"{self.of}: {name} is {table[name].type} in {self._misfit(run, name)} and "
                    f"{kind} {there}, which does not hold its values ({error}); correct one"
                ) from error
        return pa.table(columns) if columns else table

    def _misfit(self, run: Run, name: str) -> str:
        """The first file whose values do not fit."""
        for part in run.files.get_fragments() if len(run.files.files) > 1 else ():
            try:
                there = part.to_table(run.files.schema, columns=[name])[name]
                fitted(there, self.kind(name), name=name, spelled=name in run.texts)
            except MISFITS:
                return str(part.path)
        return run.first

    def _check_time(self, name: str) -> None:
        is_event_time = name == self.declared.times[0]
        for run in self.runs:
            kind = run.kind(name)
            if kind is None and is_event_time:
                raise InputError(
                    f"{self.of}: {run.first} has no column {name}, the event time; write it again"
                )
            if kind is not None and not is_time(kind) and not pa.types.is_null(kind):
                raise InputError(
                    f"{self.of}: {name} is of type {kind} in {run.first}; expected timestamps or"
                    " dates, cast the column"
                )

    def _check_key(self, name: str) -> None:
        wanted = self.declared.types.get(name)
        for run in self.runs:
            kind = run.kind(name)
            if kind is None:
                raise InputError(
                    f"{self.of}: {run.first} has no column {name}, a key; write it again"
                )
            if wanted is None or name in run.texts or pa.types.is_null(kind):
                continue
            if family(kind) != family(wanted):
                raise InputError(
                    f"{self.of}: key {name} is {kind} in {run.first} and {wanted} in the view: the"
                    " two never match; convert one of them"
                )

    def _common(self, name: str) -> pa.DataType:
        """The type that holds what every file has; of directories' names int64 if all are plain."""
        kinds: dict[pa.DataType, str] = {}
        for run in self.runs:
            kind = run.kind(name)
            if kind is not None and name not in run.texts:
                kinds.setdefault(kind, run.first)
        if not kinds:
            return pa.int64() if self._plain_numbers(name) else pa.string()
        if len(kinds) == 1:
            return next(iter(kinds))
        plain = [k.value_type if pa.types.is_dictionary(k) else k for k in kinds]
        try:
            schemas = [pa.schema([(name, kind)]) for kind in plain]
            return pa.unify_schemas(schemas, promote_options="permissive").field(name).type
        except MISFITS as error:
            found = ", ".join(f"{kind} in {file}" for kind, file in kinds.items())
            raise InputError(
                f"{self.of}: {name} is {found}, which have no common type; declare the column, or"
                " write the files alike"
            ) from error

    def _plain_numbers(self, name: str) -> bool:
        """Whether names of directories are plain numbers, without a zero in front or the like."""
        import pyarrow.dataset as ds

        for run in self.runs if any(name in run.texts for run in self.runs) else ():
            for part in run.files.get_fragments():
                text = ds.get_partition_keys(part.partition_expression).get(name)
                if text is not None and not _is_plain_number(text):
                    return False
        return True


def _dataset(parts: Sequence[Any], schema: pa.Schema, like: Any) -> Any:
    import pyarrow.dataset as ds

    return ds.FileSystemDataset(parts, schema, like.format, like.filesystem)


def _is_mapped(rows: Any) -> bool:
    """Whether a row group lies in a local file, and all its columns in the file itself."""
    import pyarrow.dataset as ds
    from pyarrow import fs

    return isinstance(rows.filesystem, fs.LocalFileSystem) and rows.partition_expression.equals(
        ds.scalar(True)
    )


def _decoded_here(rows: Any, name: str) -> pa.Table:
    """One column of a row group, decoded in this thread.

    A scanner hands it to other threads, whose memory is fresh.
    """
    import pyarrow.parquet as pq

    with rows.open() as opened:
        file = pq.ParquetFile(opened, metadata=rows.metadata, page_checksum_verification=True)
        return file.read_row_group(rows.row_groups[0].id, [name], use_threads=False)


def _is_plain_number(text: str) -> bool:
    try:
        return str(int(text)) == text and -(2**63) <= int(text) < 2**63
    except ValueError:
        return False
