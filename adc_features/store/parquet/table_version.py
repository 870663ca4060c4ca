"""One version of a table whose files alone do not say which rows are current. Reads: nothing.
Writes: nothing; no feast here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from adc_features.errors import InputError

_NOTED = b"adc_features.tables"


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of a table, of which every row is current.

    path: in `filesystem`, by default the table's. partition: column -> its value in all rows of the
    file, for columns that the file itself may lack.
    """

    path: str
    partition: Mapping[str, pa.Scalar] = field(default_factory=dict)
    filesystem: Any = None


@dataclass(frozen=True)
class TableVersion:
    """The files of one version of a Delta or Iceberg table: what is committed later is not seen.

    kind: the format. place: the table's address or name. version: a Delta version, or the id of an
    Iceberg snapshot. schema: the table's columns. files: in the order in which rows count as later.
    held: what has to live as long as the files are read.
    """

    kind: Literal["Delta", "Iceberg"]
    place: str
    version: str
    schema: pa.Schema
    files: tuple[DataFile, ...]
    filesystem: Any
    held: Any = None

    def __post_init__(self) -> None:
        if len(set(self.schema.names)) < len(self.schema.names):
            raise InputError(f"{self.place} has two columns of one name; rename one")

    @property
    def facts(self) -> dict[str, str]:
        """What a manifest says of it, so that the same rows can be read again."""
        return {"format": self.kind, "table": self.place, "version": self.version}


def note_tables(tables: Mapping[str, Mapping[str, str]]) -> dict[bytes, bytes] | None:
    """Metadata of joined rows that `tables_read` reads; None where no table was read."""
    return {_NOTED: json.dumps(tables).encode()} if tables else None


def tables_read(joined: pa.Table) -> dict[str, dict[str, str]]:
    """View -> format, address and version of the Delta or Iceberg table that joined rows read.

    Examples
    --------
    >>> noted = note_tables({"user": {"format": "Delta", "table": "users", "version": "3"}})
    >>> tables_read(pa.table({"clicks": [1]}).replace_schema_metadata(noted))["user"]["version"]
    '3'
    """
    return dict(json.loads((joined.schema.metadata or {}).get(_NOTED, b"{}")))
