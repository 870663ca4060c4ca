"""The Parquet files under a path, found and opened.

Reads: directories, the footers of files. Writes: nothing; no feast here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Any

import pyarrow as pa

from adc_features.damage import READ_ERRORS
from adc_features.errors import ArtifactError, InputError
from adc_features.input_files import FileState, InputFiles, states_of
from adc_features.parquet_files import table_format
from adc_features.store.parquet.segments import uncovered
from adc_features.store.parquet.sources import DAMAGED, Declared, Run, Source
from adc_features.store.parquet.table_version import DataFile, TableVersion
from adc_features.uris import storage_error

_FOOTERS_AT_ONCE = 16
_DECLARE = {
    "Delta": "Declare it as one: FileSource(path=..., file_format=DeltaFormat()) with"
    " feast.data_format.DeltaFormat",
    "Iceberg": "Declare it as one: Feast's IcebergSource for a table of a catalog, or"
    " FileSource(path=...) with the path of its newest .metadata.json",
    "Hudi": "Export its current rows as plain Parquet and point the source there, or use an offline"
    " store that reads the format",
}


def open_source(
    path: str,
    *,
    filesystem: Any = None,
    of: str = "source",
    declared: Declared | None = None,
    table: TableVersion | None = None,
) -> Source:
    """A Parquet file, a directory of them, or one that is partitioned by hive names. table: one
    version of a table instead.

    Raises ArtifactError when there is none, or one is broken; InputError for tables of formats
    whose files do not say which rows are current.
    """
    import pyarrow.dataset as ds
    from pyarrow import fs

    if table is not None:
        return _open_version(table, of, declared or Declared({}))
    filesystem = filesystem or fs.LocalFileSystem(use_mmap=True)
    try:
        refuse_table_formats(path, filesystem=filesystem, of=of)
        there = states_of(_listed(path, filesystem), filesystem)
        if not there and filesystem.get_file_info(path).type == fs.FileType.NotFound:
            raise FileNotFoundError(path)
        files = list(uncovered(there))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{of}: there is no file at {path} yet; write the first rows there, or correct the path"
        ) from error
    except OSError as error:
        if (refused := storage_error(error, path)) is not None:
            raise refused from error
        raise
    if not files:
        raise ArtifactError(
            f"{of}: {path} holds no Parquet file yet; write the first rows there, or correct the"
            " path"
        )
    below = {file: file.removeprefix(path.rstrip("/")) if file != path else "" for file in files}
    names = [p.partition("=")[0] for f in files for p in below[f].split("/")[:-1] if "=" in p]
    hive = ds.partitioning(
        pa.schema([(name, pa.string()) for name in dict.fromkeys(names)]), flavor="hive"
    )
    form = _format()
    parts = [form.make_fragment(f, filesystem, hive.parse(below[f])) for f in files]
    texts = [tuple(ds.get_partition_keys(part.partition_expression)) for part in parts]
    schemas = [
        _with_folders(schema, dict.fromkeys(names, pa.string()))
        for schema, names in zip(_schemas(parts, of), texts, strict=True)
    ]
    runs = _runs(parts, schemas, texts, filesystem)
    states = {file: there[file] for file in files}
    inputs = InputFiles(states, partial(_states_later, states, path, filesystem))
    return Source(of, path, runs, declared or Declared({}), inputs=[inputs])


def _states_later(
    states: Mapping[str, FileState], path: str, filesystem: Any
) -> dict[str, FileState]:
    """Of the files that are read: new ones do not count, and those that were merged into another
    one since hold the same rows.
    """
    now = states_of(_listed(path, filesystem), filesystem)
    unmerged = set(uncovered({**states, **now}))
    merged = {file: states[file] for file in states if file not in {*now, *unmerged}}
    return merged | {file: now[file] for file in states if file in now}


def _open_version(table: TableVersion, of: str, declared: Declared) -> Source:
    """The rows of one version of a table, those of its files in their order. Raises ArtifactError
    when one is missing or broken.
    """
    advice = (
        f"version {table.version} of the {table.kind} table needs it, and clean-up (vacuum, expiry"
        " of snapshots) may have deleted it: join again, of the newest version"
    )
    form = _format()
    parts = [
        form.make_fragment(file.path, file.filesystem or table.filesystem, _expression(file))
        for file in table.files
    ]
    schemas = [
        _with_folders(
            pa.schema([column for column in schema if column.name in table.schema.names]),
            {name: value.type for name, value in file.partition.items()},
        )
        for schema, file in zip(_schemas(parts, of, advice), table.files, strict=True)
    ]
    runs = _runs(parts, schemas, [()] * len(parts), table.filesystem)
    known = {name for run in runs for name in run.files.schema.names}
    if not known.issuperset(table.schema.names):  # no file has it yet: it is null, not unknown
        runs += _runs([], [table.schema], [()], table.filesystem)
    return Source(of, table.place, runs, declared, advice=advice, held=table.held)


def _format() -> Any:
    import pyarrow.dataset as ds

    return ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )


def _expression(file: DataFile) -> Any:
    """What Arrow reads the columns of a partition from; None without any."""
    import pyarrow.dataset as ds

    whole = None
    for name, value in file.partition.items():
        one = ds.field(name) == value if value.is_valid else ds.field(name).is_null()
        whole = one if whole is None else whole & one
    return whole


def _runs(
    parts: Sequence[Any],
    schemas: Sequence[pa.Schema],
    texts: Sequence[tuple[str, ...]],
    filesystem: Any,
) -> list[Run]:
    """Neighbouring files of one schema side by side; a schema without a file is a run of none."""
    import pyarrow.dataset as ds
    from pyarrow import fs

    form, runs = _format(), []
    filesystem = filesystem or fs.LocalFileSystem()  # of files that have their own; never None
    kinds = [tuple(zip(one.names, one.types, strict=True)) for one in schemas]
    for (columns, names), group in groupby(range(len(kinds)), lambda p: (kinds[p], texts[p])):
        mine = [parts[place] for place in group if place < len(parts)]
        files = ds.FileSystemDataset(mine, pa.schema(list(columns)), form, filesystem)
        runs.append(Run(files, names))
    return runs


def refuse_table_formats(path: str, *, filesystem: Any = None, of: str = "source") -> None:
    """Raise InputError for Delta, Iceberg and Hudi tables: their files hold deleted rows, too.

    A part of such a table is one as well: a file, a partition, Iceberg's data directory.
    """
    from pyarrow import fs

    filesystem = filesystem or fs.LocalFileSystem()
    is_part = filesystem.get_file_info(path.rstrip("/") or "/").type == fs.FileType.File
    refuse_tables(
        path,
        is_part=is_part,
        format_of=lambda directory: table_format(directory, filesystem),
        declare=_DECLARE,
        of=of,
    )


def refuse_tables(
    path: str,
    *,
    is_part: bool,
    format_of: Callable[[str], str | None],
    declare: Mapping[str, str],
    of: str,
) -> None:
    """`refuse_table_formats`, for whoever looks at directories in another way.

    is_part: the path is no directory. format_of: as `table_format`. declare: format -> what to do.
    """
    here = path.rstrip("/")
    while True:
        if not is_part and (found := format_of(here)):
            raise InputError(
                f"{of}: {here or '/'} is a {found} table; its files also hold rows that were"
                f" overwritten or deleted. {declare[found]}"
            )
        above, _, name = here.rpartition("/")
        if not above or not (is_part or "=" in name or name == "data"):
            return
        here, is_part = above, False


def _listed(path: str, filesystem: Any) -> list[Any]:
    """The file, or those of the directory that are not hidden; none where there is neither."""
    from pyarrow import fs

    one = filesystem.get_file_info(path)
    if one.type != fs.FileType.Directory:
        return [one] if one.type == fs.FileType.File else []
    base = path.rstrip("/")
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    return [info for info in found if not _is_hidden(info.path.removeprefix(base))]


def _is_hidden(below: str) -> bool:
    return any(part.startswith((".", "_")) for part in below.split("/"))


def _schemas(parts: Sequence[Any], of: str, advice: str = DAMAGED) -> list[pa.Schema]:
    """The schema of every file, from its footer. Raises ArtifactError naming one that has none."""

    def schema(part: Any) -> pa.Schema:
        try:
            found = part.physical_schema
            _ = found.names  # decoded only now
        except READ_ERRORS as error:
            raise storage_error(error, part.path) or ArtifactError(
                f"{of}: {part.path} is not readable as Parquet ({error}); {advice}"
            ) from error
        if len(set(found.names)) < len(found.names):
            raise InputError(f"{of}: {part.path} has two columns of one name; rename one")
        return found

    if len(parts) == 1:
        return [schema(parts[0])]
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        return list(pool.map(schema, parts))


def _with_folders(schema: pa.Schema, folders: Mapping[str, pa.DataType]) -> pa.Schema:
    """A file's columns and those that its place says; the place wins."""
    own = [pa.field(column.name, folders.get(column.name, column.type)) for column in schema]
    more = [pa.field(name, kind) for name, kind in folders.items() if name not in schema.names]
    return pa.schema(own + more)
