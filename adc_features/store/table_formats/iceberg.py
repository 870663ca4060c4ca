"""One snapshot of an Iceberg table. Reads: its metadata and manifests, through pyiceberg. Writes:
the current rows of tables whose files are not read as they are, into a temporary file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from adc_features.damage import READ_ERRORS
from adc_features.errors import AdcError, ArtifactError, InputError, StorageError
from adc_features.extras import extra_modules
from adc_features.store.parquet.table_version import DataFile, TableVersion
from adc_features.store.table_formats.current_rows import CurrentRows
from adc_features.uris import in_one_line, storage_error

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile as IcebergFile
    from pyiceberg.schema import Schema
    from pyiceberg.table import DataScan, Table

_log = logging.getLogger(__name__)
_AT_ONCE = 16
"""Manifests or footers that are read at the same time."""
_IO = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}
_FIELD_ID = b"PARQUET:field_id"
NO_SNAPSHOT = "none"
"""The version of a table into which nothing was written yet."""


def catalog_version(
    catalog: str,
    table: str,
    properties: Mapping[str, str],
    *,
    version: int | None = None,
    spill: Path | None = None,
) -> TableVersion:
    """The files of a table of a catalog at one snapshot, by default the newest now.

    catalog: its name. table: namespace.table. properties: of pyiceberg's catalog. spill: where the
    current rows are written, of a table whose files are not read as they are. Raises ArtifactError
    when there is no such table or snapshot, InputError for what is not read, StorageError,
    MissingExtraError.
    """
    with extra_modules():
        from pyiceberg.catalog import load_catalog
    name = f"{catalog}.{table}"
    try:
        found = load_catalog(catalog, **{**properties, **_IO}).load_table(table)
    except Exception as error:  # each catalog has a driver of its own, with its own errors
        raise _of_catalog(error, name) from error
    return _version(found, name, version, spill)


def metadata_version(
    uri: str, *, endpoint: str | None = None, version: int | None = None, spill: Path | None = None
) -> TableVersion:
    """The same by the address of the table's metadata file: what that file says is current."""
    with extra_modules():
        from pyiceberg.table import StaticTable
    options = {**_IO, **({"s3.endpoint": endpoint} if endpoint else {})}
    try:
        found = StaticTable.from_metadata(uri, options)
    except Exception as error:  # as above
        raise _of_catalog(error, uri) from error
    return _version(found, uri, version, spill)


def _of_catalog(error: Exception, name: str) -> AdcError:
    """An error of a catalog in our words."""
    from pyiceberg import exceptions

    said = in_one_line(error)
    refused = (
        exceptions.UnauthorizedError,
        exceptions.ForbiddenError,
        exceptions.AuthorizationExpiredError,
        exceptions.OAuthError,
    )
    if isinstance(error, refused):
        return StorageError(
            f"the catalog refuses the credentials for the Iceberg table {name} ({said}); renew"
            " them, or the token that token_env_var names"
        )
    if (storage := storage_error(error, name)) is not None:
        return storage
    missing = (exceptions.NoSuchTableError, exceptions.NoSuchNamespaceError, FileNotFoundError)
    if isinstance(error, missing):
        return ArtifactError(
            f"there is no Iceberg table {name} ({said}); write it first, or correct the source"
        )
    return ArtifactError(
        f"the Iceberg table {name} cannot be opened ({type(error).__name__}: {said}); see to its"
        " catalog, or correct the source"
    )


def _version(table: Table, name: str, version: int | None, spill: Path | None) -> TableVersion:
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    if version is not None and table.snapshot_by_id(version) is None:
        raise ArtifactError(
            f"the Iceberg table {name} has no snapshot {version}: it was never there, or has"
            f" expired; there are {[one.snapshot_id for one in table.snapshots()][-5:]}"
        )
    scan = table.scan() if version is None else table.scan(snapshot_id=version)
    snapshot, wanted = scan.snapshot(), scan.projection()
    schema = schema_to_pyarrow(wanted, include_field_ids=False)
    found, held = _files(table, snapshot, wanted), None
    if found is None:
        _log.info("stage=table table=%s copied=true", name)
        held = CurrentRows(spill)
        found = [held.file(_current(scan, name), {})]
    at = NO_SNAPSHOT if snapshot is None else str(snapshot.snapshot_id)
    return TableVersion("Iceberg", name, at, schema, tuple(found), None, held=held)


def _files(table: Table, snapshot: Any, wanted: Schema) -> list[DataFile] | None:
    """The files of a snapshot in the order in which they were committed; None where their rows
    alone are not the table's.
    """
    from pyiceberg.manifest import FileFormat, ManifestContent

    if snapshot is None:
        return []
    manifests = snapshot.manifests(table.io)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        read = list(pool.map(lambda one: one.fetch_manifest_entry(table.io), manifests))
        pairs = list(zip(manifests, read, strict=True))
        if any(len(found) and m.content == ManifestContent.DELETES for m, found in pairs):
            return None
        entries = sorted(
            (entry for _, found in pairs for entry in found),
            key=lambda entry: (entry.sequence_number or 0, entry.data_file.file_path),
        )
        files: Sequence[IcebergFile] = [entry.data_file for entry in entries]
        if any(file.file_format != FileFormat.PARQUET for file in files):
            return None
        places = [_place(table.io, file.file_path) for file in files]
        schemas = list(pool.map(_footer, places))
    whole = all(
        _stands(schema, wanted, _identities(table, file))
        for schema, file in zip(schemas, files, strict=True)
    )
    return places if whole else None


def _place(io: Any, location: str) -> DataFile:
    """A file as Arrow reads it, by the credentials that the catalog gave."""
    scheme, netloc, path = io.parse_location(location, io.properties)
    return DataFile(path, filesystem=io.fs_by_scheme(scheme, netloc))


def _footer(file: DataFile) -> pa.Schema:
    try:
        return pq.read_schema(file.path, filesystem=file.filesystem)
    except READ_ERRORS as error:
        raise storage_error(error, file.path) or ArtifactError(
            f"{file.path}, a file of an Iceberg table, cannot be read ({error}); it is damaged, or"
            " the snapshot has expired: join again, of the newest one"
        ) from error


def _identities(table: Table, file: IcebergFile) -> set[int]:
    """Ids of the columns that the place of a file says, which the file itself may lack."""
    from pyiceberg.transforms import IdentityTransform

    spec = table.specs()[file.spec_id]
    return {f.source_id for f in spec.fields if isinstance(f.transform, IdentityTransform)}


def _stands(schema: pa.Schema, wanted: Schema, identities: set[int]) -> bool:
    """Whether the columns of a file are the table's, by their ids and by their names.

    Renamed, replaced and nested columns, and defaults of columns that were added, are not read from
    files as they are.
    """
    current = {field.field_id: field for field in wanted.fields}
    names = {field.name for field in wanted.fields}
    there = set()
    for column in schema:
        number = int((column.metadata or {}).get(_FIELD_ID, -1))
        field = current.get(number)
        if column.name in names if field is None else column.name != field.name:
            return False
        if field is not None and _has_fields(column.type):
            return False
        there.add(number)
    return not any(
        field.initial_default is not None or number in identities
        for number, field in current.items()
        if number not in there
    )


def _has_fields(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _has_fields(kind.value_type)
    return pa.types.is_struct(kind) or pa.types.is_map(kind)


def _current(scan: DataScan, name: str) -> Iterator[pa.Table]:
    """The rows of a snapshot as pyiceberg reads them, deletions applied."""
    try:
        reader = scan.to_arrow_batch_reader()
        yield reader.schema.empty_table()
        for batch in reader:
            yield pa.Table.from_batches([batch])
    except READ_ERRORS as error:
        raise storage_error(error, name) or ArtifactError(
            f"the Iceberg table {name} cannot be read ({error}); the snapshot may have expired,"
            " join again"
        ) from error
    except (NotImplementedError, ValueError) as error:
        raise InputError(
            f"the Iceberg table {name} holds what is not read ({error}), as equality deletes are;"
            " rewrite its data files, or declare an export of it"
        ) from error
