"""Where the rows of Feast's sources are: Parquet files, or a Delta or Iceberg table at one version.

Reads: sources, logs and metadata of tables. Writes: nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adc_features.errors import InputError
from adc_features.store import _compat as feast
from adc_features.store.parquet.opening import open_source
from adc_features.store.parquet.sources import Declared, Source
from adc_features.store.parquet.table_version import TableVersion
from adc_features.uris import open_uri, scheme_of

VERSION_TAG = "table_version"
"""The tag of a source that names the version of its table to read, in place of the newest."""
_METADATA = ".metadata.json"


@dataclass(frozen=True)
class Place:
    """Where rows are. filesystem, path: of Parquet files. table: else, one version of a table."""

    path: str
    filesystem: Any = None
    table: TableVersion | None = None

    def opened(self, *, of: str, declared: Declared | None = None) -> Source:
        """The rows. Raises ArtifactError naming what is missing or broken."""
        options = {"filesystem": self.filesystem, "table": self.table, "declared": declared}
        return open_source(self.path, of=of, **options)


@dataclass(frozen=True)
class Places:
    """Places of sources, as of one moment: a table that several views read has one version.

    repo: relative paths lie below it. spill: where current rows of tables are written whose files
    hold deleted ones.
    """

    repo: Path | None
    spill: Path | None = None
    _pinned: dict[Any, TableVersion] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Any) -> Places:
        """Of a repository's configuration."""
        spill = getattr(config.offline_store, "spill_directory", None)
        return cls(config.repo_path, Path(spill) if spill else None)

    def place(self, source: Any) -> Place:
        """Where a source's rows are. A table is pinned when it is first asked for.

        Raises InputError for sources of other kinds, ArtifactError where there is no such table.
        """
        if _is_table(source):
            known = (_identity(source), source.tags.get(VERSION_TAG))
            if known not in self._pinned:
                self._pinned[known] = self._pin(source)
            table = self._pinned[known]
            return Place(table.place, table.filesystem, table)
        filesystem, path = location_of(source, self.repo)
        return Place(path, filesystem)

    def _pin(self, source: Any) -> TableVersion:
        from adc_features.store.table_formats.delta import delta_version
        from adc_features.store.table_formats.iceberg import catalog_version, metadata_version

        version = _asked_version(source)
        if not isinstance(source, feast.FileSource):
            table = f"{source.namespace}.{source.iceberg_table}"
            return catalog_version(
                source.catalog_name, table, _catalog(source), version=version, spill=self.spill
            )
        pinned = delta_version if _is_delta(source) else metadata_version
        at = _uri(source, self.repo)
        endpoint = source.file_options.s3_endpoint_override or None
        return pinned(at, endpoint=endpoint, version=version, spill=self.spill)


def location_of(source: Any, repo_path: Path | None) -> tuple[Any, str]:
    """File system and path of a Parquet source. Raises InputError for other sources and formats."""
    if _is_table(source):
        raise InputError(
            f"the source is a table ({_kind(source)}), which this store reads and never writes;"
            " write to it through its own library"
        )
    if not isinstance(source, feast.FileSource) or not (
        source.file_format is None or isinstance(source.file_format, feast.ParquetFormat)
    ):
        raise InputError(
            f"the source is a {_kind(source)}; this store reads Parquet and Delta through"
            " FileSource, and Iceberg through IcebergSource: use another offline store for it"
        )
    uri, endpoint = _uri(source, repo_path), source.file_options.s3_endpoint_override
    filesystem, path = open_uri(uri, endpoint=endpoint or None)
    return (filesystem if scheme_of(uri) else None), path


def _uri(source: Any, repo_path: Path | None) -> str:
    """The address of a file source; a relative path lies below the repository."""
    uri = str(source.file_options.uri)
    return uri if scheme_of(uri) else str(Path(repo_path or "") / uri)


def _is_table(source: Any) -> bool:
    return isinstance(source, feast.iceberg_source()) or _is_delta(source) or _is_metadata(source)


def _is_delta(source: Any) -> bool:
    return isinstance(source, feast.FileSource) and isinstance(
        source.file_format, feast.DeltaFormat
    )


def _is_metadata(source: Any) -> bool:
    return isinstance(source, feast.FileSource) and source.path.endswith(_METADATA)


def _kind(source: Any) -> str:
    if _is_metadata(source):
        return "Iceberg metadata"
    of = source.file_format if isinstance(source, feast.FileSource) else source
    return type(of).__name__


def _identity(source: Any) -> Any:
    """Equal for sources that read one table, whatever their names and columns are."""
    if isinstance(source, feast.FileSource):
        return source.path, source.file_options.s3_endpoint_override
    table = source.catalog_name, source.namespace, source.iceberg_table
    return (*table, *sorted(_catalog(source).items()))


def _asked_version(source: Any) -> int | None:
    text = source.tags.get(VERSION_TAG)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(
            f"source {source.name}: the tag {VERSION_TAG} is {text!r}; expected a whole number, a"
            " version of Delta or the id of an Iceberg snapshot"
        ) from None


def _catalog(source: Any) -> dict[str, str]:
    """What pyiceberg asks to open the catalog of an Iceberg source of Feast."""
    properties = {"type": source.catalog_type, **source.catalog_properties}
    if source.endpoint:
        properties.setdefault("uri", source.endpoint)
    if source.warehouse:
        properties.setdefault("warehouse", source.warehouse)
    if source.token_env_var and (token := os.environ.get(source.token_env_var)):
        properties.setdefault("token", token)
    return properties
