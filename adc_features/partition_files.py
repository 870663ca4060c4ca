"""Rows spread over files by a number, and read again one file at a time. Reads: Arrow tables.
Writes: Arrow stream files.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

MOST_FILES = 700
"""Partitions that are open at once: systems allow 1,024 files, and a pass has others open too."""


class PartitionWriter:
    """Partitions of one schema, filled by pieces. The order of rows is that of their coming."""

    def __init__(self, directory: Path, schema: pa.Schema, count: int) -> None:
        self.schema, self.rows = schema, np.zeros(count, np.int64)
        self._open = ExitStack()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._files = [
            self._open.enter_context(
                pa.ipc.new_stream(str(directory / _name(k)), schema, options=options)
            )
            for k in range(count)
        ]

    def add(self, table: pa.Table, bucket: np.ndarray) -> None:
        """bucket: int64 [N], the partition of each row."""
        order = np.argsort(bucket.astype(np.uint16), kind="stable")
        size = np.bincount(bucket, minlength=len(self._files))
        batch = table.take(pa.array(order)).combine_chunks()
        start = 0
        for number in np.flatnonzero(size).tolist():
            self._files[number].write_table(batch.slice(start, size[number]))
            start += int(size[number])
        self.rows += size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()


def read_partition(directory: Path, number: int, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a partition, in the order of their coming."""
    path = str(directory / _name(number))
    with pa.memory_map(path) as file:
        whole = pa.ipc.open_stream(file)
        fields = None if columns is None else [whole.schema.get_field_index(c) for c in columns]
        file.seek(0)
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        return pa.ipc.open_stream(file, options=options).read_all()


def _name(number: int) -> str:
    return f"part-{number:05d}.arrows"
