"""One version of a Delta table. Reads: its log, through deltalake. Writes: the current rows of
files with deletion vectors, into temporary files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from adc_features.errors import ArtifactError, InputError
from adc_features.extras import extra_modules
from adc_features.store.parquet.table_version import DataFile, TableVersion
from adc_features.store.table_formats.current_rows import CurrentRows
from adc_features.uris import (
    in_one_line,
    local_path,
    open_uri,
    reaching,
    s3_options,
    scheme_of,
    storage_error,
)

if TYPE_CHECKING:
    from deltalake import DeltaTable

_READ = {"deletionVectors", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "typeWidening"}
"""Features of tables that change nothing for a reader of whole files, or that are seen to here."""
_UNUSED = {"variantType", "variantType-preview", "variantShredding-preview"}
"""Features of column types that no view declares."""
_PARTITION = "partition."


def delta_version(
    uri: str,
    *,
    endpoint: str | None = None,
    version: int | None = None,
    spill: Path | None = None,
) -> TableVersion:
    """The files of a Delta table at one version, by default the newest now.

    endpoint: of S3, as for `open_uri`. spill: where files with deletion vectors are written without
    their deleted rows. Raises ArtifactError when there is no such table or version, InputError for
    a table with features that are not read, StorageError, MissingExtraError.
    """
    table = _opened(uri, endpoint, version)
    _refuse_unread(table, uri)
    filesystem, root = open_uri(uri, endpoint=endpoint)
    schema = pa.schema(table.schema().to_arrow())
    files = _files(table, uri, root)
    kept, held = _kept(table, uri, {file.path for file in files}), None
    if kept:
        held = CurrentRows(spill)
        with reaching(uri):
            files = [
                held.without_deleted(file, filesystem, kept[file.path])
                if file.path in kept
                else file
                for file in files
            ]
    at = str(table.version())
    return TableVersion("Delta", uri, at, schema, tuple(files), filesystem, held=held)


def _opened(uri: str, endpoint: str | None, version: int | None) -> DeltaTable:
    with extra_modules():
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

    options = s3_options(endpoint) if scheme_of(uri) == "s3" else {}
    place = str(local_path(uri)) if scheme_of(uri) in (None, "file") else uri
    try:
        return DeltaTable(place, version=version, storage_options=options or None)
    except (DeltaError, OSError) as error:
        said = in_one_line(error)
        if (refused := storage_error(error, uri)) is not None:
            raise refused from error
        if isinstance(error, TableNotFoundError):
            raise ArtifactError(
                f"there is no Delta table at {uri} ({said}); write it first, or correct the path"
            ) from error
        of = "" if version is None else f" of version {version}"
        raise ArtifactError(
            f"the Delta table{of} at {uri} cannot be opened ({said}); correct the version, or see"
            " whether its log is whole"
        ) from error


def _refuse_unread(table: DeltaTable, uri: str) -> None:
    needed = set(table.protocol().reader_features or ())
    mapped = table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
    if mapped or "columnMapping" in needed:
        raise InputError(
            f"the Delta table {uri} maps its columns to other names in its files (columnMapping),"
            " which is not read; write it anew without delta.columnMapping.mode, or declare an"
            " export of it"
        )
    if unread := sorted(needed - _READ - _UNUSED):
        raise InputError(
            f"the Delta table {uri} needs the reader features {', '.join(unread)}, which are not"
            " read; drop them from the table, or declare an export of it"
        )


def _files(table: DeltaTable, uri: str, root: str) -> list[DataFile]:
    """The files that are current, in the order in which they were written."""
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = [name for name in actions.column_names if name.startswith(_PARTITION)]
    order = actions.append_column("row", pa.array(range(len(actions)))).sort_by(
        [("modification_time", "ascending"), ("path", "ascending")]
    )
    files = []
    for row in order["row"].to_pylist():
        name = unquote(actions["path"][row].as_py())
        if scheme_of(name) or name.startswith("/"):
            raise InputError(
                f"the Delta table {uri} has files of another place ({name}), as a shallow clone"
                " has; declare a deep copy of it"
            )
        partition: Mapping[str, Any] = {
            column.removeprefix(_PARTITION): actions[column][row] for column in columns
        }
        files.append(DataFile(f"{root.rstrip('/')}/{name}", partition))
    return files


def _kept(table: DeltaTable, uri: str, files: Collection[str]) -> dict[str, np.ndarray]:
    """File -> which of its rows are kept (bool), for files of which rows were deleted."""
    if "deletionVectors" not in (table.protocol().reader_features or ()):
        return {}
    found = pa.table(table.deletion_vectors())
    kept = {}
    for row in range(len(found)):
        name = found["filepath"][row].as_py()
        path = name.partition("://")[2] if scheme_of(name) else name
        path = path if path in files else unquote(path)
        if path not in files:
            raise ArtifactError(
                f"the Delta table {uri} has a deletion vector of {name}, which is none of its"
                " files; see whether its log is whole"
            )
        mask = found["selection_vector"][row].values
        kept[path] = mask.to_numpy(zero_copy_only=False)
    return kept
