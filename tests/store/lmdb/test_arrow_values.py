"""Tables as values of LMDB."""

import pyarrow as pa
import pytest

from adc_features.errors import ArtifactError
from adc_features.store.lmdb.arrow_values import table_bytes, table_of

TABLE = pa.table({"id": ["é1", "b2", None], "last": [["x"], [], None], "n": [1, None, 3]})


def test_a_table_comes_back() -> None:
    """With its nulls, empty lists and characters of several bytes."""
    assert table_of(table_bytes(TABLE)).equals(TABLE)


def test_a_table_with_a_flipped_bit_is_read_whole_or_refused() -> None:
    """Whatever byte of it: no value fails later, when somebody reads it."""
    whole, refused = table_bytes(TABLE), 0
    for at in range(len(whole)):
        value = bytearray(whole)
        value[at] ^= 0x80
        try:
            table_of(bytes(value)).to_pylist()
        except ArtifactError:
            refused += 1
    assert refused > len(whole) / 20


@pytest.mark.parametrize("kept", [0, 4, 100])
def test_a_table_that_is_cut_off_is_refused(kept: int) -> None:
    """Nothing, the first word alone, or half a schema."""
    with pytest.raises(ArtifactError, match="damaged"):
        table_of(table_bytes(TABLE)[:kept])
