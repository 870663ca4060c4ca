"""Indices of feature files, kept for the next join of the same files. Reads: Parquet files, kept
indices. Writes: kept indices; no feast here.

A file of the directory is named PLACE-CONTENT.index: PLACE stands for the path of the feature
files and the columns of the index, CONTENT for the bytes of these columns. It is an Arrow file of
one row, whose columns are the arrays of `AsofIndex.parts`, and 16 bytes that are the hash of all
before. A join maps it.

An index follows from the bytes of the key, time and created columns. They are hashed at every join,
compressed as they are, which is a small part of the work of decoding and sorting them; neither a
file's time of change nor its size is trusted.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import mmh3
import pyarrow as pa

from adc_features import __version__
from adc_features.damage import READ_ERRORS
from adc_features.errors import ArtifactError
from adc_features.store.join.asof import AsofIndex
from adc_features.store.join.feature_rows import FeatureRows, IndexedColumns

log = logging.getLogger(__name__)

_FORMAT = 1
"""Of the file, and of what `AsofIndex` makes of the same rows."""
_SUFFIX, _ASIDE = ".index", ".tmp"
_KEPT = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}\.index")
_UNFINISHED = re.compile(r"[0-9a-f]{32}\.tmp")
"""Names that are made here: no other file of the directory is removed."""
_HASH_BYTES = 16
_TAIL = 8
"""Bytes of a Parquet file behind its footer: the footer's length and a magic number."""
_ROW_BYTES = 16
_LEFT_BEHIND = 3600.0
"""Seconds after which an unfinished file is that of a killed process."""
_FACTS = b"adc_index"


@dataclass(frozen=True)
class IndexCache:
    """A directory of kept indices, of at most max_bytes; those unused for longest are removed.

    Nothing that goes wrong with it fails a join: the index is built as without it.
    """

    directory: Path
    max_bytes: int

    def has_room_for(self, rows: FeatureRows, columns: IndexedColumns) -> bool:
        """Whether the index of these rows, about, may be kept."""
        return len(rows) * (_ROW_BYTES + 8 * columns.known_only) <= self.max_bytes

    def index(self, rows: FeatureRows, columns: IndexedColumns) -> AsofIndex:
        """The index of all rows of the files: the kept one, else a new one, which is kept."""
        with rows.files.reading():
            name = _name(rows, columns)
        kept = self._kept(name)
        if kept is not None:
            return kept
        index = rows.index(columns)
        with rows.files.reading():
            unchanged = _name(rows, columns) == name
        if unchanged:  # else the index may be of rows that were there for a moment
            self._keep(name, index)
        return index

    def _kept(self, name: str) -> AsofIndex | None:
        path = self.directory / name
        try:
            index = _opened(path)
        except FileNotFoundError:
            return None
        except (*READ_ERRORS, ArtifactError, KeyError, ValueError) as error:
            log.warning("index=%s rebuilt=true reason=%s", path, error)
            return None
        with suppress(OSError):  # another user's, or removed meanwhile
            os.utime(path)  # the last use
        log.debug("index=%s kept=true rows=%d", path, len(index))
        return index

    def _keep(self, name: str, index: AsofIndex) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            written = _written(index, self.directory)
            try:
                self._make_room(written.stat().st_size, name)
                written.replace(self.directory / name)
            finally:
                written.unlink(missing_ok=True)
        except (OSError, pa.ArrowException) as error:
            log.warning("index=%s kept=false reason=%s", self.directory / name, error)

    def _make_room(self, size: int, name: str) -> None:
        """Remove what `name` follows upon, what was left behind, and the longest unused until
        `size` bytes more are at most max_bytes.
        """
        for path, found in self._files(_UNFINISHED):
            if found.st_mtime < time.time() - _LEFT_BEHIND:
                path.unlink(missing_ok=True)
        place = name.partition("-")[0]
        files = sorted(self._files(_KEPT), key=lambda file: file[1].st_mtime_ns, reverse=True)
        for path, found in files:
            size += found.st_size
            if size > self.max_bytes or path.name.startswith(f"{place}-"):
                path.unlink(missing_ok=True)
                size -= found.st_size

    def _files(self, names: re.Pattern[str]) -> Iterator[tuple[Path, os.stat_result]]:
        for path in filter(lambda path: names.fullmatch(path.name), self.directory.iterdir()):
            with suppress(FileNotFoundError):  # another process removed it
                yield path, path.stat()


def _name(rows: FeatureRows, columns: IndexedColumns) -> str:
    """The file name of the index of these rows; it follows from all that the index follows from."""
    files, names = rows.files, columns.names
    place = [files.path, names, columns.created, columns.known_only, len(columns.keys)]
    content = [
        _FORMAT,
        __version__,
        sys.byteorder,
        [str(files.kind(name)) for name in names],
        [
            (part.path, [str(run.kind(name)) for name in names], _content(part, names))
            for run in files.runs
            for part in run.files.get_fragments()
        ],
    ]
    return f"{_hex(place)[:16]}-{_hex([place, content])[:32]}{_SUFFIX}"


def _hex(value: Any) -> str:
    return sha256(json.dumps(value).encode()).hexdigest()


def _content(part: Any, names: tuple[str, ...]) -> str:
    """The hash of a file's footer and of the bytes of its columns of these names, hex."""
    footer = part.metadata
    leaves = [footer.schema.column(place).path for place in range(footer.num_columns)]
    wanted = [
        place
        for place, leaf in enumerate(leaves)
        if any(leaf == name or leaf.startswith(f"{name}.") for name in names)
    ]
    digest = mmh3.mmh3_x64_128()
    with part.filesystem.open_input_file(part.path) as file:

        def add(start: int, count: int) -> None:
            file.seek(start)
            digest.update(memoryview(file.read_buffer(count)))

        add(max(file.size() - footer.serialized_size - _TAIL, 0), footer.serialized_size + _TAIL)
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            for place in wanted:
                chunk = group.column(place)
                first = chunk.dictionary_page_offset or chunk.data_page_offset
                add(min(first, chunk.data_page_offset), chunk.total_compressed_size)
    return digest.digest().hex()


def _written(index: AsofIndex, directory: Path) -> Path:
    """The index in a new file of the directory, under a name of its own."""
    facts, arrays = index.parts()
    row = pa.table({name: _as_one_value(array) for name, array in arrays.items()})
    row = row.replace_schema_metadata({_FACTS: json.dumps(facts)})
    path = directory / f"{uuid.uuid4().hex}{_ASIDE}"
    try:
        with pa.ipc.new_file(path, row.schema) as writer:
            writer.write_table(row)
        with pa.memory_map(str(path)) as written:
            digest = mmh3.mmh3_x64_128_digest(memoryview(written.read_buffer()))
        with path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(digest)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _opened(path: Path) -> AsofIndex:
    """The index of a file, mapped. Raises ArtifactError for one that is not as it was written."""
    with pa.memory_map(str(path)) as file:
        content = file.read_buffer()
    end = len(content) - _HASH_BYTES
    if end < 0 or mmh3.mmh3_x64_128_digest(memoryview(content)[:end]) != content[end:].to_pybytes():
        raise ArtifactError(f"{path} is not as it was written; it is made again")
    row = pa.ipc.open_file(pa.BufferReader(content.slice(0, end))).read_all()
    arrays = {name: row[name].chunk(0).values for name in row.column_names}
    return AsofIndex.of_parts(json.loads(row.schema.metadata[_FACTS]), arrays)


def _as_one_value(array: pa.Array) -> pa.Array:
    """A list of all of it."""
    return pa.LargeListArray.from_arrays(pa.array([0, len(array)], pa.int64()), array)
