"""The Parquet files under a path, found and opened.

Reads: directories, the footers of files. Writes: nothing; no feast here.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from adc_features.damage import READ_ERRORS
from adc_features.errors import ArtifactError, InputError
from adc_features.store.parquet.segments import uncovered
from adc_features.store.parquet.sources import Declared, Run, Source

if TYPE_CHECKING:
    pass

_FOOTERS_AT_ONCE = 16


def open_source(
    path: str, *, filesystem: Any = None, of: str = "source", declared: Declared | None = None
) -> Source:
    """A Parquet file, a directory of them, or one that is partitioned by hive names.

    Raises ArtifactError when there is none, or one is broken; InputError for tables of formats
    whose files do not say which rows are current.
    """
    import pyarrow.dataset as ds
    from pyarrow import fs

    filesystem = filesystem or fs.LocalFileSystem(use_mmap=True)
    try:
        refuse_table_formats(path, filesystem=filesystem, of=of)
        files = _files(path, filesystem)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{of}: there is no file at {path} yet; write the first rows there, or correct the path"
        ) from error
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
    form = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    parts = [form.make_fragment(f, filesystem, hive.parse(below[f])) for f in files]
    keys = [tuple(ds.get_partition_keys(part.partition_expression)) for part in parts]
    schemas = _schemas(parts, of, path)
    runs = []
    places = range(len(parts))
    for (schema, texts), group in groupby(places, lambda p: (_kinds(schemas[p], keys[p]), keys[p])):
        mine = [parts[place] for place in group]
        runs.append(
            Run(ds.FileSystemDataset(mine, pa.schema(list(schema)), form, filesystem), texts)
        )
    return Source(of, path, runs, declared or Declared({}))


def refuse_table_formats(path: str, *, filesystem: Any = None, of: str = "source") -> None:
    """Raise InputError for Delta, Iceberg and Hudi tables: their files hold deleted rows, too.

    A part of such a table is one as well: a file, a partition, Iceberg's data directory.
    """
    from pyarrow import fs

    filesystem = filesystem or fs.LocalFileSystem()
    here = path.rstrip("/")
    is_file = filesystem.get_file_info(here or "/").type == fs.FileType.File
    while True:
        if not is_file and (found := _table_format(here, filesystem)):
            raise InputError(
                f"{of}: {here or '/'} is a {found} table; its files also hold rows that were "
                "overwritten or deleted. Export its current rows as plain Parquet and point the "
                "source there, or use an offline store that reads the format"
            )
        above, _, name = here.rpartition("/")
        if not above or not (is_file or "=" in name or name == "data"):
            return
        here, is_file = above, False


def _table_format(path: str, filesystem: Any) -> str | None:
    from pyarrow import fs

    names = {"_delta_log": "Delta", ".hoodie": "Hudi", "metadata": "Iceberg"}
    for info in filesystem.get_file_info([f"{path}/{name}" for name in names]):
        found = names[info.base_name]
        if info.type != fs.FileType.Directory:
            continue
        if found != "Iceberg":
            return found
        inside = filesystem.get_file_info(fs.FileSelector(f"{path}/metadata"))
        if any(".metadata.json" in file.base_name for file in inside):
            return found
    return None


def _files(path: str, filesystem: Any) -> list[str]:
    """The file, or those of the directory that are neither hidden nor merged into another one, in
    the order of their names.
    """
    from pyarrow import fs

    kind = filesystem.get_file_info(path).type
    if kind == fs.FileType.NotFound:
        raise FileNotFoundError(path)
    if kind == fs.FileType.File:
        return [path]
    base = path.rstrip("/")
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    return uncovered(
        info.path
        for info in found
        if info.type == fs.FileType.File and not _is_hidden(info.path.removeprefix(base))
    )


def _is_hidden(below: str) -> bool:
    return any(part.startswith((".", "_")) for part in below.split("/"))


def _schemas(parts: Sequence[Any], of: str, path: str) -> list[pa.Schema]:
    """The schema of every file, from its footer. Raises ArtifactError naming one that has none."""

    def schema(part: Any) -> pa.Schema:
        try:
            found = part.physical_schema
            _ = found.names  # decoded only now
        except READ_ERRORS as error:
            raise ArtifactError(
                f"{of}: {part.path} is not readable as Parquet ({error}); the file is damaged or"
                " half-written, write it again"
            ) from error
        if len(set(found.names)) < len(found.names):
            raise InputError(f"{of}: {part.path} has two columns of one name; rename one")
        return found

    if len(parts) == 1:
        return [schema(parts[0])]
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        return list(pool.map(schema, parts))


def _kinds(schema: pa.Schema, texts: Sequence[str]) -> tuple[tuple[str, pa.DataType], ...]:
    """Names and types of a file's columns; names of directories are text and win."""
    own = tuple(
        (field.name, pa.string() if field.name in texts else field.type) for field in schema
    )
    return own + tuple((name, pa.string()) for name in texts if name not in schema.names)
