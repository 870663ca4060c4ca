"""Segments of a served log. Reads: records, directories. Writes: pairs of Parquet files, complete
or invisible.

A segment is two files of one name, `candidates/NAME.parquet` and `requests/NAME.parquet`. Both are
written aside, synced and renamed, that of the requests last: a reader that finds it finds both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.artifact import sync_directory
from adc_features.damage import READ_ERRORS
from adc_features.errors import ArtifactError, InputError
from adc_features.event_times import UTC_US
from adc_features.served.record import (
    ABOUT,
    FEATURE,
    ITEM,
    REQUEST,
    USER,
    About,
    Served,
    candidates_table,
    requests_table,
    schema_hash,
)

REQUESTS, CANDIDATES = "requests", "candidates"
SCHEMA = b"adc.schema"
"""The key of a file's metadata that holds the hash of both tables' columns."""
_STALE = 86_400.0
"""Seconds after which a file that was never finished is taken for one of a process that died."""


class _Part:
    """One of the two files of a segment, while it is written."""

    def __init__(self, directory: Path, name: str, schema: pa.Schema) -> None:
        self.target = directory / f"{name}.parquet"
        self._aside = directory / f".{name}.parquet"
        self._file: BinaryIO = self._aside.open("wb")
        try:
            self._writer: Any = pq.ParquetWriter(
                self._file, schema, compression="zstd", write_page_checksum=True
            )
        except BaseException:
            self._file.close()
            raise

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table)

    @property
    def size(self) -> int:
        return self._file.tell()

    def seal(self) -> None:
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._aside.replace(self.target)
        sync_directory(self.target.parent)

    def abandon(self) -> None:
        with suppress(Exception):  # it ends a writer whose file may be full
            self._writer.close()
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._aside.unlink(missing_ok=True)


class OpenSegment:
    """A segment that is being written; of rows about one thing, with the same columns.

    Parameters
    ----------
    log : Path
        The directory of the log.
    name : str
        Of its files.
    first : sequence of Served
        The first records.
    shares : (float, float)
        Of requests that are sampled, and of them those with values.
    """

    def __init__(
        self, log: Path, name: str, first: Sequence[Served], shares: tuple[float, float]
    ) -> None:
        self.opened, self.requests, self._shares = time.monotonic(), 0, shares
        tables = requests_table(first, shares), candidates_table(first)
        schemas = [table.schema for table in tables]
        told = {ABOUT: first[0].about.encoded(), SCHEMA: schema_hash(*schemas).encode()}
        self._parts: list[_Part] = []
        try:
            for folder, schema in zip((REQUESTS, CANDIDATES), schemas, strict=True):
                self._parts.append(_Part(log / folder, name, schema.with_metadata(told)))
            self._write(*tables)
        except BaseException:
            self.abandon()
            raise

    def write(self, records: Sequence[Served]) -> None:
        """Add records."""
        self._write(requests_table(records, self._shares), candidates_table(records))

    def _write(self, requests: pa.Table, candidates: pa.Table) -> None:
        for part, table in zip(self._parts, (requests, candidates), strict=True):
            part.write(table)
        self.requests += len(requests)

    @property
    def size(self) -> int:
        """Bytes of its files so far."""
        return sum(part.size for part in self._parts)

    def seal(self) -> None:
        """Make it visible."""
        for part in reversed(self._parts):
            part.seal()

    def abandon(self) -> None:
        """Leave nothing of it."""
        for part in self._parts:
            part.abandon()


def made_log(log: Path) -> Path:
    """The directory of a log, made where it is missing. What a process that died left unfinished is
    removed after a day. Raises InputError when it cannot be written.
    """
    log = Path(log)
    try:
        for folder in (REQUESTS, CANDIDATES):
            (log / folder).mkdir(parents=True, exist_ok=True)
            trial = log / folder / f".trial.{os.getpid()}"
            trial.write_bytes(b"")
            trial.unlink()
            for left in (log / folder).glob(".*.parquet"):
                with suppress(FileNotFoundError):  # another process has just sealed it
                    if time.time() - left.stat().st_mtime > _STALE:
                        left.unlink()
    except OSError as error:
        raise InputError(
            f"the served log {log} cannot be written ({error.strerror}); give a directory that can"
            " be, --log DIR"
        ) from error
    return log


@dataclass(frozen=True)
class Segment:
    """A sealed segment; `sealed_segments` finds them.

    about: of its rows. requests, candidates: its files. has_values: whether the values of features
    are in it.
    """

    about: About
    requests: Path
    candidates: Path
    has_values: bool

    def request_rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The requests, by place in the file."""
        return _read(self.requests, columns)

    def candidate_rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The candidates of all requests, by place in the file."""
        return _read(self.candidates, columns)

    def keys(self, requests: pa.Table, rows: pa.Table, of: pa.Array) -> dict[str, Any]:
        """Join keys and fields of the request, by name, for each of these candidates.

        of: the place of each candidate's request.
        """
        asked = (name for name, _ in self.about.request if REQUEST + name in requests.column_names)
        return {
            **{key: requests[USER + key].take(of) for key in self.about.user},
            **{key: rows[ITEM + key] for key in self.about.item},
            **{name: requests[REQUEST + name].take(of) for name in asked},
        }

    def values(self, requests: pa.Table, rows: pa.Table, of: pa.Array) -> dict[str, Any]:
        """The values of each feature, by name, that were scored for each of these candidates."""
        names = {FEATURE + name: name for name, _ in self.about.features}
        return {
            name: rows[at] if at in rows.column_names else requests[at].take(of)
            for at, name in names.items()
        }


def as_of(requests: pa.Table) -> pa.ChunkedArray:
    """The time as of which history says what each request read."""
    return pc.coalesce(requests["served_as_of"], requests["now"]).cast(UTC_US)


def sealed_segments(log: Path) -> list[Segment]:
    """The segments of a log, by name: by the time of their first request.

    Raises
    ------
    InputError
        There is none.
    ArtifactError
        A file is missing, damaged, or no segment; NewerFormatError where a newer version wrote it.
    """
    folder = Path(log) / REQUESTS
    found = []
    for path in sorted(folder.glob("[!.]*.parquet")):
        other = Path(log) / CANDIDATES / path.name
        if not other.is_file():
            raise ArtifactError(
                f"{path} has no candidates, {other} is missing; restore it, or take the file of its"
                " requests away"
            )
        schemas = _schema(path), _schema(other)
        metadata = schemas[0].metadata
        about = About.decoded(metadata, of=path)
        if metadata.get(SCHEMA, b"").decode() != schema_hash(*schemas):
            raise ArtifactError(
                f"{path} and {other} do not have the columns that they were written with; restore"
                " them, or take both away"
            )
        names = {name for schema in schemas for name in schema.names}
        has_values = all(FEATURE + name in names for name, _ in about.features)
        found.append(Segment(about, path, other, has_values))
    if not found:
        raise InputError(
            f"{log} holds no segment of a served log; give the directory of `adc serve --log`. A"
            " segment is there once it is full, five minutes old, or the service has stopped"
        )
    return found


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except READ_ERRORS as error:
        raise _damaged(path, error) from error


def _read(path: Path, columns: Sequence[str] | None) -> pa.Table:
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read(columns)
        return table.replace_schema_metadata(None)
    except READ_ERRORS as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be read as Parquet ({error}); restore it, or take its segment away: the"
        " files of this name in `requests` and in `candidates`"
    )
