"""Proof that two retrievals gave the same data. Reads: Arrow content. Writes: a retrieval manifest;
compares two.

The hash is of the content in its order, not of a file: the same rows have the same hash however
they are chunked, compressed or split into row groups. Every column has a hash of its own, so that a
difference names the column.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.clock import moment
from adc_features.errors import InputError
from adc_features.event_times import microseconds
from adc_features.parquet_files import reading

RETRIEVAL = "retrieval.json"
LIBRARIES = ("adc-features", "feast", "pyarrow")


class _ColumnHash:
    """Running hashes of one column: validity, lengths and values are streams of their own, so chunk
    borders leave no trace.
    """

    def __init__(self, kind: pa.DataType, name: str) -> None:
        self.kind, self.name = kind, name
        self.valid, self.lengths, self.values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        nested = (
            pa.types.is_list(kind)
            or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind)
        )
        self.child = _ColumnHash(kind.value_type, name) if nested else None
        self.is_text = any(
            check(kind)
            for check in (
                pa.types.is_string,
                pa.types.is_large_string,
                pa.types.is_binary,
                pa.types.is_large_binary,
            )
        )
        if not (nested or self.is_text or pa.types.is_primitive(kind)):
            raise InputError(
                f"column {name} is of type {kind}, which has no content hash; expected numbers,"
                " times, booleans, text or lists of them"
            )

    def update(self, array: pa.Array) -> None:
        self.valid.update(np.asarray(array.is_valid()).astype(np.uint8).tobytes())
        array = array.drop_null()
        if self.child is not None:
            self.lengths.update(np.asarray(pc.list_value_length(array)).astype(np.int64).tobytes())
            self.child.update(array.flatten())
        elif self.is_text:
            raw = array.cast(pa.large_binary())
            self.lengths.update(np.asarray(pc.binary_length(raw)).astype(np.int64).tobytes())
            offsets = (
                np.frombuffer(raw.buffers()[1], np.int64, len(raw) + 1, raw.offset * 8)
                if len(raw)
                else np.zeros(1, np.int64)
            )
            self.values.update(
                memoryview(raw.buffers()[2])[offsets[0] : offsets[-1]]
                if offsets[-1] > offsets[0]
                else b""
            )
        elif pa.types.is_boolean(self.kind):
            self.values.update(np.asarray(array.cast(pa.uint8())).tobytes())
        else:  # the bits as they are: times and dates are integers below
            width = self.kind.bit_width // 8
            if len(array):
                self.values.update(
                    memoryview(array.buffers()[1])[
                        array.offset * width : (array.offset + len(array)) * width
                    ]
                )

    def hexdigest(self) -> str:
        parts = [
            "list" if self.child else str(self.kind),  # a list's item may be called item or element
            *(h.hexdigest() for h in (self.valid, self.lengths, self.values)),
            self.child.hexdigest() if self.child else "",
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _type_text(kind: pa.DataType | str) -> str:
    """A type in words; a list's item may be called item or element, by who wrote the file."""
    return str(kind).replace("list<element: ", "list<item: ")


def content_hashes(batches: Iterable[pa.Table], schema: pa.Schema) -> dict[str, str]:
    """sha256 of each column's content, rows in their order;
    independent of chunks. Memory: one batch.

    Raises InputError for types without a hash (structs, maps, dictionaries).
    """
    hashes = {field.name: _ColumnHash(field.type, field.name) for field in schema}
    for batch in batches:
        for name, column in hashes.items():
            for chunk in batch[name].chunks:
                column.update(chunk)
    return {name: column.hexdigest() for name, column in hashes.items()}


def parquet_batches(path: Path) -> Iterable[pa.Table]:
    """The row groups of a Parquet file, one at a time."""
    with reading(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    with file:
        for group in range(file.num_row_groups):
            with reading(path):
                table = file.read_row_group(group)
            yield table


def retrieval_manifest(
    batches: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    time: str = "event_timestamp",
    service: str | None = None,
    generation: str | None = None,
    unmatched: Mapping[str, int] | None = None,
    tables: Mapping[str, Mapping[str, str]] | None = None,
    rows_in: int | None = None,
) -> dict[str, Any]:
    """What was retrieved: views and their unmatched rows, generation, rows, time range (UTC),
    content hashes by column and of all, versions. tables: view -> the version of the Delta or
    Iceberg table that was read, where it was one.
    """
    tables = tables or {}
    rows = 0
    ranges: list[datetime] = []

    def counted() -> Iterable[pa.Table]:
        nonlocal rows
        for batch in batches:
            rows += len(batch)
            if len(batch):
                at = microseconds(batch[time].drop_null(), name=time)
                if len(at):
                    ranges.extend(moment(np.datetime64(int(e), "us")) for e in (at.min(), at.max()))
            yield batch

    columns = content_hashes(counted(), schema)
    first, last = (pick(ranges, default=None) for pick in (min, max))
    return {
        "kind": "retrieval",
        "service": service,
        "generation": generation,
        "views": {
            name: {"unmatched": count} | ({"table": dict(tables[name])} if name in tables else {})
            for name, count in (unmatched or {}).items()
        },
        "rows_in": rows if rows_in is None else rows_in,
        "rows": rows,
        "time_range": {"first": first, "last": last},
        "columns": {
            field.name: {"type": _type_text(field.type), "sha256": columns[field.name]}
            for field in schema
        },
        "content_hash": (
            hashlib.sha256(
                "\n".join(f"{name} {digest}" for name, digest in columns.items()).encode()
            ).hexdigest()
        ),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _table(view: Mapping[str, Any]) -> str:
    """The version of a table that a view was read from, in words."""
    if (table := view.get("table")) is None:
        return "Parquet files"
    return f"version {table['version']} of the {table['format']} table {table['table']}"


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What the second retrieval has different from the first, one sentence each; empty when the
    data are equal. Versions may differ.
    """
    said = [
        f"{name}: {then[name]!r} then, {now[name]!r} now"
        for name in ("service", "generation", "rows")
        if then[name] != now[name]
    ]
    for view in sorted({*then["views"], *now["views"]}):
        counts = [m["views"].get(view, {}).get("unmatched", "not read") for m in (then, now)]
        if counts[0] != counts[1]:
            said.append(
                f"view {view}: {counts[0]} rows without a feature row then, {counts[1]} now"
            )
    for name in [*then["columns"], *(n for n in now["columns"] if n not in then["columns"])]:
        old, new = then["columns"].get(name), now["columns"].get(name)
        if old is None or new is None:
            said.append(f"column {name}: {'new' if old is None else 'gone'}")
        elif _type_text(old["type"]) != _type_text(new["type"]):
            said.append(f"column {name}: {old['type']} then, {new['type']} now")
        elif old["sha256"] != new["sha256"]:
            said.append(
                f"column {name}: other values or another order (sha256 {old['sha256'][:12]}..."
                f" then, {new['sha256'][:12]}... now)"
            )
    if not said and list(then["columns"]) != list(now["columns"]):
        said.append("the columns are the same, in another order")
    for view in sorted({*then["views"], *now["views"]}) if said else ():  # why they differ
        versions = [_table(m["views"].get(view, {})) for m in (then, now)]
        if versions[0] != versions[1]:
            said.append(f"view {view}: {versions[0]} then, {versions[1]} now")
    return said
