"""Joined rows in one Parquet file."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adc_features.errors import InputError
from adc_features.store import write_parquet
from adc_features.store.parquet import writer

ROWS = pa.table(
    {
        "item": ["a", "b", None],
        "at": pa.array([1, None, 2], pa.timestamp("us", "UTC")),
        "price": pa.array([1.5, None, 2.5], pa.float64()),
        "codes": pa.array([[1, 2], [], None], pa.list_(pa.int32())),
        "weights": pa.array([[0.5, 0.25], [], None], pa.list_(pa.float32())),
    }
)


def test_pieces_come_back_as_they_went_in(tmp_path, monkeypatch):
    """In order, with nulls and empty lists, in row groups of the given size; a piece in a wider
    list type is taken in the first one's.
    """
    monkeypatch.setattr(writer, "ROW_GROUP_ROWS", 2)
    wide = ROWS.set_column(3, "codes", ROWS["codes"].cast(pa.large_list(pa.int32())))
    assert write_parquet(iter([ROWS, wide]), tmp_path / "rows.parquet") == 6
    assert pq.read_table(tmp_path / "rows.parquet") == pa.concat_tables([ROWS, ROWS])
    assert [
        pq.read_metadata(tmp_path / "rows.parquet").row_group(g).num_rows for g in range(4)
    ] == [2, 1, 2, 1]


def test_only_values_that_repeat_have_a_dictionary(tmp_path):
    """Texts and codes do, times and fractions do not, inside lists or not."""
    write_parquet([ROWS], tmp_path / "rows.parquet")
    group = pq.read_metadata(tmp_path / "rows.parquet").row_group(0)
    encoded = {
        group.column(i).path_in_schema.partition(".")[0]: (
            "RLE_DICTIONARY" in group.column(i).encodings
        )
        for i in range(5)
    }
    assert encoded == {"item": True, "at": False, "price": False, "codes": True, "weights": False}


def test_no_table_is_refused_and_leaves_no_file(tmp_path):
    """The schema is that of the first table; without one there is none."""
    with pytest.raises(InputError, match="give at least one"):
        write_parquet([], tmp_path / "rows.parquet")
    assert not list(tmp_path.iterdir())
