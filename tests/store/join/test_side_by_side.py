"""Columns in several threads: the same answers as in one."""

import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from adc_features.errors import InputError
from adc_features.store.join.gather import Gatherer, RowPicks
from adc_features.store.join.side_by_side import each


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_results_stand_in_the_order_of_the_values(monkeypatch, cores):
    """Whatever ends first; there are as many threads as pyarrow computes with, two at most."""
    monkeypatch.setattr(pa, "cpu_count", lambda: cores)
    seen = set()

    def squared(value: int) -> int:
        seen.add(threading.get_ident())
        time.sleep(0.01 * (5 - value))
        return value * value

    assert each(squared, range(6)) == [0, 1, 4, 9, 16, 25]
    assert len(seen) <= min(cores, 2)
    assert (threading.get_ident() in seen) == (cores == 1)
    assert each(squared, []) == []


def test_the_first_error_in_order_is_raised_when_all_threads_ended(monkeypatch):
    """A column that cannot be read is named, however the others fare."""
    monkeypatch.setattr(pa, "cpu_count", lambda: 2)

    def refused(value: int) -> int:
        if value:
            raise InputError(f"column {value}")
        return value

    before = threading.active_count()
    with pytest.raises(InputError, match="column 1"):
        each(refused, [0, 1, 2])
    assert threading.active_count() == before


def test_lists_of_missing_rows_close_up_over_several_blocks():
    """20,000 lists of which a third are missing: null where no row is seen, else Arrow's own."""
    rng = np.random.default_rng(0)
    lists = pa.array(rng.integers(0, 9, (500, 3)).tolist(), pa.list_(pa.int32()))
    rows = rng.integers(-250, 500, 20_000)
    rows[rows < 0] = -1
    got = Gatherer(pa.chunked_array([lists]))(RowPicks(rows))
    assert got.equals(lists.take(pa.array(rows, mask=rows < 0)))
    assert len(got.values) == 3 * int((rows >= 0).sum())
