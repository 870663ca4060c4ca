"""Rows into a view's Parquet files. Reads: tables, the files there are. Writes: parts, whole files; no feast here.

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
from adc_features.event_times import is_time, timestamps
from adc_features.store.casts import MISFITS, fitted
from adc_features.store.parquet import write_parquet
from adc_features.store.sources import Declared, Source


def as_written(table: pa.Table, known: Source) -> tuple[pa.Table, Iterator[pa.Table]]:
    """New rows and the rows there are, in types that hold both: the declared ones.

    A time keeps the type that the files have while that holds the new times. Raises InputError for
    other columns than the files', and for values of other types.
    """
    if set(table.column_names) != set(known.names):
        raise InputError(f"{known.of}: the rows have columns {table.column_names}, its files have {known.names}; bring the same columns")
    known.check(known.names)
    columns, kept = {}, {}
    for name in known.names:
        wanted = known.kind(name)
        try:
            column = fitted(table[name], wanted, name=f"{known.of}: {name}")
        except MISFITS as error:
            raise InputError(
                f"{known.of}: {name} is {table[name].type} in the rows and {wanted} in the view, which does not hold its values ({error}); correct one"
            ) from error
        if name in known.declared.times:
            if not is_time(table[name].type) and not pa.types.is_null(table[name].type):
                raise InputError(f"{known.of}: {name} is of type {table[name].type} in the rows; expected timestamps or dates, cast the column")
            if (same := _in_the_files_type(column, known, name)) is not None:
                column = kept[name] = same
        columns[name] = column
    return pa.table(columns), _rewritten(known, {name: c.type for name, c in kept.items()})


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
    """Is, or will be: a path that is not there yet is a directory unless it is named like a file."""
    kind = (filesystem or fs.LocalFileSystem()).get_file_info(path).type
    return kind == fs.FileType.Directory or (kind == fs.FileType.NotFound and not path.endswith(".parquet"))


def holds_files(filesystem: Any, path: str) -> bool:
    """Has the directory, or one below it, a file that is not hidden?"""
    found = (filesystem or fs.LocalFileSystem()).get_file_info(fs.FileSelector(path, recursive=True))
    return any(info.type == fs.FileType.File and not info.base_name.startswith((".", "_")) for info in found)


def add_parts(rows: pa.Table | ds.Dataset, path: str, filesystem: Any, partitions: list[str]) -> None:
    """Rows as new files of a directory, each in the directory of its partition; moved there when all are complete."""
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


def write_whole(tables: Iterator[pa.Table], path: str, filesystem: Any, *, as_directory: bool = False) -> None:
    """One Parquet file, or a directory with one, from pieces; visible when complete, a failure leaves what was there."""
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
