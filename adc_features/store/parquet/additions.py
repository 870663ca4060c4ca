"""Rows into a view's Parquet files. Reads: tables, the files there are. Writes: parts, whole files;
no feast here.

What is written becomes visible when it is complete; a failure leaves what was there.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from adc_features.errors import InputError
from adc_features.event_times import UTC_US, is_time, timestamps
from adc_features.store.casts import MISFITS, family, fitted
from adc_features.store.parquet import write_parquet
from adc_features.store.parquet.sources import Declared, Source


def as_written(table: pa.Table, known: Source) -> tuple[pa.Table, Iterator[pa.Table]]:
    """New rows and the rows there are, in types that hold both: the declared ones.

    A time keeps the type that the files have while that holds the new times. Raises InputError for
    other columns than the files', and for values of other types.
    """
    if set(table.column_names) != set(known.names):
        raise InputError(
            f"{known.of}: the rows have columns {table.column_names}, its files have {known.names};"
            " bring the same columns"
        )
    known.check(known.names)
    columns = _fitted_columns(
        table, {name: known.kind(name) for name in known.names}, known.declared, of=known.of
    )
    kept = {}
    for name in known.declared.times:
        if name in columns and (same := _in_the_files_type(columns[name], known, name)) is not None:
            columns[name] = kept[name] = same
    return pa.table(columns), _rewritten(known, {name: c.type for name, c in kept.items()})


def as_declared(table: pa.Table, declared: Declared, *, of: str) -> pa.Table:
    """The first rows of a source, in the declared types.

    What is not declared stays as it comes; times are in microseconds.
    """
    wanted = [*declared.types, *declared.times]
    if missing := [name for name in dict.fromkeys(wanted) if name not in table.column_names]:
        raise InputError(
            f"{of}: the rows have no column {', '.join(missing)}; they have {table.column_names},"
            " bring every key, feature and time"
        )
    kinds = {
        field.name: declared.types.get(
            field.name, UTC_US if field.name in declared.times else field.type
        )
        for field in table.schema
    }
    return pa.table(_fitted_columns(table, kinds, declared, of=of))


def _fitted_columns(
    table: pa.Table, kinds: Mapping[str, pa.DataType], declared: Declared, *, of: str
) -> dict[str, pa.ChunkedArray]:
    """Columns that are to be written, in their types.

    Raises InputError naming the value that does not fit, and for rows without an event time.
    """
    columns = {}
    for name, wanted in kinds.items():
        kind = table[name].type
        if name in declared.times and not is_time(kind) and not pa.types.is_null(kind):
            raise InputError(
                f"{of}: {name} is of type {kind} in the rows; expected timestamps or dates, cast"
                " the column"
            )
        if name in declared.keys and not pa.types.is_null(kind) and family(kind) != family(wanted):
            raise InputError(
                f"{of}: key {name} is {kind} in the rows and {wanted} in the view: the two never"
                " match; convert one of them"
            )
        try:
            options = {"whole_lists": name in declared.types, "seconds": name in declared.seconds}
            columns[name] = fitted(table[name], wanted, name=f"{of}: {name}", **options)
        except MISFITS as error:
            raise InputError(
                f"{of}: {name} is {kind} in the rows and {wanted} in the view, which does not hold"
                f" its values ({error}); correct one"
            ) from error
    if declared.times and (lost := columns[declared.times[0]].null_count):
        raise InputError(
            f"{of}: {lost} values of {declared.times[0]} are null; a row without its time is never"
            " seen, drop these rows"
        )
    return columns


def in_the_files_names(table: pa.Table, source: Any) -> pa.Table:
    """Rows in the names of the files' columns.

    Feast hands them over in the view's names, with pandas' index beside them.
    """
    original = {new: old for old, new in (source.field_mapping or {}).items()}
    table = table.select(
        [name for name in table.column_names if not name.startswith("__index_level_")]
    )
    return table.rename_columns([original.get(name, name) for name in table.column_names])


def _in_the_files_type(times: pa.ChunkedArray, known: Source, name: str) -> pa.ChunkedArray | None:
    """Times in the one type that all files have, None when there is none or it loses something."""
    kinds = {run.kind(name) for run in known.runs}
    kind = kinds.pop()
    if kinds or kind is None or not pa.types.is_timestamp(kind):
        return None
    try:
        same = fitted(times, kind, name=name)
    except MISFITS:
        return None
    return same if timestamps(same, name=name).equals(times) else None


def _rewritten(known: Source, kept: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    """The rows of the files in the types of `as_written`; kept: times that stay as they are."""
    types = {name: known.kind(name) for name in known.names} | dict(kept)
    as_is = Source(known.of, known.path, known.runs, Declared(types))
    return as_is.tables(known.names)


def exists(filesystem: Any, path: str) -> bool:
    """Is there a file or a directory?"""
    return (filesystem or fs.LocalFileSystem()).get_file_info(path).type != fs.FileType.NotFound


def is_directory(filesystem: Any, path: str) -> bool:
    """Whether the path is a directory, or will be one.

    One that is not there yet is a directory unless it is named like a file.
    """
    kind = (filesystem or fs.LocalFileSystem()).get_file_info(path).type
    return kind == fs.FileType.Directory or (
        kind == fs.FileType.NotFound and not path.endswith(".parquet")
    )


def holds_files(filesystem: Any, path: str) -> bool:
    """Has the directory, or one below it, a file that is not hidden?"""
    found = (filesystem or fs.LocalFileSystem()).get_file_info(
        fs.FileSelector(path, recursive=True)
    )
    return any(
        info.type == fs.FileType.File and not info.base_name.startswith((".", "_"))
        for info in found
    )


def add_parts(
    rows: pa.Table | ds.Dataset, path: str, filesystem: Any, partitions: list[str]
) -> None:
    """Write rows as new files of a directory, each in the directory of its partition.

    They are moved there when all are complete.
    """
    filesystem = filesystem or fs.LocalFileSystem()
    aside = f"{path}/.{uuid.uuid4().hex}"
    filesystem.create_dir(aside, recursive=True)
    try:
        ds.write_dataset(
            rows,
            aside,
            format="parquet",
            filesystem=filesystem,
            basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet",
            partitioning=partitions or None,
            partitioning_flavor="hive" if partitions else None,
            existing_data_behavior="overwrite_or_ignore",
        )
        for part in filesystem.get_file_info(fs.FileSelector(aside, recursive=True)):
            if part.type == fs.FileType.File:
                place = path + part.path.removeprefix(aside)
                filesystem.create_dir(place.rpartition("/")[0], recursive=True)
                filesystem.move(part.path, place)
    finally:
        filesystem.delete_dir(aside)


def write_whole(
    tables: Iterator[pa.Table], path: str, filesystem: Any, *, as_directory: bool = False
) -> None:
    """Write one Parquet file, or a directory with one, from pieces.

    It is visible when it is complete; a failure leaves what was there.
    """
    filesystem = filesystem or fs.LocalFileSystem()
    folder, _, name = path.rpartition("/")
    aside = f"{folder or '.'}/.{name}.{uuid.uuid4().hex}"
    filesystem.create_dir(aside, recursive=True)
    try:
        file = f"{aside}/part-0.parquet"
        write_parquet(tables, file, filesystem=filesystem)
        if as_directory and filesystem.get_file_info(path).type != fs.FileType.NotFound:
            filesystem.delete_dir(path)
        filesystem.move(aside if as_directory else file, path)
    finally:
        if filesystem.get_file_info(aside).type != fs.FileType.NotFound:
            filesystem.delete_dir(aside)
