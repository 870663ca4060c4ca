"""Packed files of the format before the one that is written now. Reads: packed_format_1/*.sids."""

from pathlib import Path

import numpy as np
import pytest
from packed_world import TABLES

from adc_features.store.packed.snapshot import PackedSnapshot

FILES = Path(__file__).parent / "packed_format_1"


@pytest.mark.parametrize("name", TABLES)
def test_a_file_of_format_1_gives_the_rows_that_were_packed(name):
    """Codes in bytes, in two bytes each, and a single one: every value comes back as it was."""
    packed, wanted = PackedSnapshot(FILES / f"{name}.sids"), TABLES[name]
    packed.verify()
    got = packed.lookup(wanted["item_ids"])
    for column in ("sid", "sid_weight", "reliability", "alignment", "is_cold", "found"):
        assert np.array_equal(getattr(got, column), wanted[column]), column
    assert got.as_of == wanted["as_of"]
