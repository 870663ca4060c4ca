"""Raw columns of items, and the table that carries them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.raw_items import RawItems
from adc_features.errors import InputError

RAW = RawItems.of(
    title=[" red shoe ", "", None],
    path=[["Shoes", " Red "], [" ", None], None],
    image=[b"1", b"", None],
)


def test_blanks_are_absent() -> None:
    """Texts lose the blanks around them; what is empty is null, columns that were not given too."""
    assert RAW.title.to_pylist() == ["red shoe", None, None]
    assert RAW.path.to_pylist() == [["Shoes", "Red"], None, None]
    assert RAW.image.to_pylist() == [b"1", None, None]
    assert RAW.brand.null_count == len(RAW) == 3


def test_some_items_and_some_columns() -> None:
    """`take` keeps the order that is asked for, `without` leaves columns out."""
    assert RAW.take(np.array([2, 0])).title.to_pylist() == [None, "red shoe"]
    assert RAW.take(np.array([True, False, False])).image.to_pylist() == [b"1"]
    assert RAW.without("path", "title").path.null_count == 3
    assert RAW.without("path").title.equals(RAW.title)
    assert RAW.without("summary").fingerprint() == RAW.fingerprint()
    assert RAW.without("path").fingerprint() != RAW.fingerprint()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "at least one of"),
        ({"name": ["a"]}, r"\['name'\]"),
        ({"title": ["a"], "brand": ["b", "c"]}, "lengths"),
        ({"path": ["Shoes"]}, "'path' cannot be read as list"),
        ({"image": [1]}, "'image' cannot be read as binary"),
    ],
    ids=["nothing", "unknown", "lengths", "text path", "number"],
)
def test_columns_that_are_none_are_refused(columns: dict[str, Any], words: str) -> None:
    """The message says what was given and what is expected."""
    with pytest.raises(InputError, match=words):
        RawItems.of(**columns)


def test_a_table_carries_its_raw_items(tmp_path: Path) -> None:
    """Through `take` and through a file they stay with their items; another number is refused."""
    vectors = np.ones((3, 2), np.float32)
    table = EmbeddingTable(
        np.array(["a", "b", "c"]),
        {"title": vectors},
        {"title": np.ones(3, bool)},
        np.zeros(3, np.int64),
        datetime(2024, 1, 1, tzinfo=UTC),
        RAW,
    )
    table.write(tmp_path / "table.parquet")
    for again in (EmbeddingTable.read(tmp_path / "table.parquet"), table.take(np.arange(3))):
        assert again.raw is not None
        for name in ("title", "brand", "path", "further", "image", "summary"):
            assert getattr(again.raw, name).equals(getattr(RAW, name))
    with pytest.raises(InputError, match="raw items are 2, the table has 3"):
        EmbeddingTable(**{**vars(table), "raw": RAW.take(np.arange(2))})
    plain = EmbeddingTable(**{**vars(table), "raw": None})
    assert EmbeddingTable.from_arrow(plain.to_arrow()).raw is None
    assert isinstance(plain.to_arrow(), pa.Table)
