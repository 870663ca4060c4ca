"""Where long arrays lie. Writes: arrays to be filled, in Arrow's memory or in files that are
mapped; no feast here.
"""

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from adc_features.errors import ArtifactError


class Space(Protocol):
    """Gives an array [count] to be filled."""

    def __call__(self, count: int, dtype: Any = ..., /) -> np.ndarray: ...


def mapped_space(folder: Path | None) -> Space:
    """Arrays in nameless files of `folder` (None: the system's own).

    The system may drop their pages, and nothing is left behind. Raises ArtifactError when the disk
    has no room.
    """
    reserve = getattr(os, "posix_fallocate", lambda file, _, size: os.ftruncate(file, size))

    def space(count: int, dtype: Any = np.int64) -> np.ndarray:
        size = count * np.dtype(dtype).itemsize
        if not size:
            return np.empty(count, dtype)
        with tempfile.TemporaryFile(dir=folder, prefix="adc-join-") as file:
            try:
                reserve(file.fileno(), 0, size)
            except OSError as error:
                where = folder or tempfile.gettempdir()
                raise ArtifactError(
                    f"no room for {size} bytes in {where} ({error}); free some, set"
                    " spill_directory, or raise memory_limit"
                ) from error
            return np.frombuffer(mmap.mmap(file.fileno(), size), dtype)

    return space


def arrow_space(count: int, dtype: Any = np.int64) -> np.ndarray:
    """An array [count] to be filled, from Arrow's pool, which keeps what it was given back.

    numpy's own goes back to the system, batch after batch; having the system clear it again costs
    more than filling it.
    """
    return np.frombuffer(pa.allocate_buffer(count * np.dtype(dtype).itemsize), dtype)
