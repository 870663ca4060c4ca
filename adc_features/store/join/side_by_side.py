"""Work on columns in several threads: pyarrow and numpy decode, sort and copy side by side. Reads,
writes: nothing; no feast here.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")
_AT_MOST = 2
"""Threads: each has a row group of a column of its own in memory, and keeps what it gave back."""


def each(function: Callable[[_Value], _Result], values: Sequence[_Value]) -> list[_Result]:
    """The function of each value, in order; the first error is raised when all threads ended.

    There are as many threads as pyarrow computes with, `pyarrow.cpu_count()`, up to two.
    """
    threads = min(_AT_MOST, pa.cpu_count(), len(values))
    if threads < 2:
        return [function(value) for value in values]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, values))
