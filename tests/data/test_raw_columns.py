"""Raw columns read from item tables."""

from pathlib import Path

import pyarrow as pa
import pytest

from adc_features.data.raw_items import raw_items
from adc_features.errors import InputError

SHOP = pa.table(
    {
        "item_id": ["a", "b"],
        "title": ["red shoe", None],
        "brand": ["Acme", None],
        "categories": [["Shoes", "Red"], []],
        "color": ["red", None],
        "said": [None, "A shoe."],
    }
)


def test_columns_are_read_where_statistics_read_them() -> None:
    """Title, brand and path by their usual names, further attributes and a summary as named."""
    raw = raw_items(SHOP, further=["color"], summary="said")
    assert raw.title.to_pylist() == ["red shoe", None]
    assert raw.brand.to_pylist() == ["Acme", None]
    assert raw.path.to_pylist() == [["Shoes", "Red"], None]
    assert raw.further.to_pylist() == [["red"], None]
    assert raw.summary.to_pylist() == [None, "A shoe."]
    assert raw.image.null_count == 2


def test_a_table_without_any_of_them_has_items_without_anything() -> None:
    """Only the number of items is left."""
    raw = raw_items(pa.table({"item_id": [1, 2, 3]}))
    assert raw.title.null_count == raw.path.null_count == len(raw) == 3


def test_images_are_bytes_or_paths(tmp_path: Path) -> None:
    """A path is read relative to the folder; one that is not there is named."""
    (tmp_path / "a.jpg").write_bytes(b"picture")
    items = SHOP.append_column("image_path", pa.array(["a.jpg", None]))
    assert raw_items(items, folder=tmp_path).image.to_pylist() == [b"picture", None]
    items = SHOP.append_column("image_jpeg", pa.array([b"picture", b""]))
    assert raw_items(items).image.to_pylist() == [b"picture", None]
    items = SHOP.append_column("image_path", pa.array(["b.jpg", None]))
    with pytest.raises(InputError, match=r"b\.jpg.*No such file"):
        raw_items(items, folder=tmp_path)
    with pytest.raises(InputError, match="is of type int64; expected encoded images"):
        raw_items(SHOP.append_column("image_path", pa.array([1, 2])))


def test_a_column_that_is_not_there_is_refused() -> None:
    """The message names it and what there is."""
    with pytest.raises(InputError, match="no column 'size' for raw items"):
        raw_items(SHOP, further=["size"])
    with pytest.raises(InputError, match="'brand': type is list"):
        raw_items(pa.table({"brand": pa.array([["a"]])}))
