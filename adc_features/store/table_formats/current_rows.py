"""The current rows of files that hold deleted ones too. Reads: Parquet. Writes: temporary Parquet
files, which end with the object that wrote them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from adc_features.store.parquet.table_version import DataFile
from adc_features.store.parquet.writer import write_parquet


class CurrentRows:
    """A directory of temporary files. It is deleted with this object, in the process that made it:
    a copy that was pickled reads the files, and leaves them.
    """

    def __init__(self, spill: Path | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="adc-table-", dir=spill))
        weakref.finalize(self, _delete, self.directory, os.getpid())

    def without_deleted(self, file: DataFile, filesystem: Any, kept: np.ndarray) -> DataFile:
        """A file of the same rows without the deleted ones. kept: bool, of the first rows; those
        beyond it are kept.
        """

        def groups() -> Iterator[pa.Table]:
            with pq.ParquetFile(
                file.path, filesystem=filesystem, page_checksum_verification=True
            ) as rows:
                at = 0
                for group in range(rows.num_row_groups):
                    table = rows.read_row_group(group)
                    mask = np.ones(len(table), bool)
                    mask[: len(kept[at:])] = kept[at : at + len(table)]
                    at += len(table)
                    yield table.filter(pa.array(mask))

        return self.file(groups(), file.partition)

    def file(self, tables: Iterable[pa.Table], partition: Mapping[str, pa.Scalar]) -> DataFile:
        """Rows as a temporary file. tables: at least one."""
        path = self.directory / f"{uuid.uuid4().hex}.parquet"
        write_parquet(tables, path)
        return DataFile(str(path), partition, fs.LocalFileSystem(use_mmap=True))


def _delete(directory: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(directory, ignore_errors=True)
