"""Raw columns of an item table, for a tokenizer that reads items themselves. Reads: item tables,
image files. Writes: RawItems.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from adc_features.codes.raw_items import RawItems
from adc_features.data.attributes import SEPARATOR, attribute_problem, attribute_text
from adc_features.errors import InputError

IMAGES = ("image_jpeg", "image_path")
"""Columns that may hold an item's picture, as bytes or as a path; the first one present is read."""


def raw_items(
    items: pa.Table,
    *,
    title: str = "title",
    further: Sequence[str] = (),
    summary: str | None = None,
    folder: Path | None = None,
) -> RawItems:
    """The raw columns of an item table: title, brand, category path, further attributes, image.

    Parameters
    ----------
    items : pyarrow.Table
        N items. Brand and path are read where statistics read them (`brand`; `category_path`,
        `category_paths`, `categories` or `category`), images from `image_jpeg` or
        `image_path`: encoded bytes, or paths of files.
    title : str
        The column of the title; absent where the table has none.
    further : sequence of str
        Columns of further attributes, in their order.
    summary : str, optional
        A column of one-sentence texts for the reconstruction loss.
    folder : Path, optional
        What relative image paths are relative to.

    Returns
    -------
    RawItems

    Raises
    ------
    InputError
        A named column that is not there, a column of an unreadable type, or an image file that is
        missing.

    Examples
    --------
    >>> shop = pa.table({"item_id": [1], "title": ["red shoe"], "category": ["Shoes > Red"]})
    >>> raw_items(shop).path.to_pylist()
    [['Shoes', 'Red']]
    """
    missing = [c for c in (*further, summary) if c and c not in items.column_names]
    if missing:
        raise InputError(
            f"there is no column {missing[0]!r} for raw items; the table has {items.column_names}"
        )
    for name in ("brand", "path"):
        if problem := attribute_problem(items, name):
            column, what, do = problem
            raise InputError(f"column {column!r}: {what}; {do}")
    texts = [items[c].cast(pa.string()).to_pylist() for c in further]
    columns: dict[str, pa.Array | list] = {
        "brand": attribute_text(items, "brand"),
        "path": [path.split(SEPARATOR) for path in attribute_text(items, "path").to_pylist()],
        "image": _images(items, folder),
    }
    if further:
        columns["further"] = [[t for t in row if t] for row in zip(*texts, strict=True)]
    if title in items.column_names:
        columns["title"] = items[title].cast(pa.string())
    if summary:
        columns["summary"] = items[summary].cast(pa.string())
    return RawItems.of(**columns)


def _images(items: pa.Table, folder: Path | None) -> pa.Array:
    column = next((c for c in IMAGES if c in items.column_names), None)
    if column is None:
        return pa.nulls(len(items), pa.binary())
    kind = items[column].type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return items[column].cast(pa.binary()).combine_chunks()
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(
            f"column {column!r} is of type {kind}; expected encoded images (binary) or paths (text)"
        )
    return pa.array([_read(path, folder, column) for path in items[column].to_pylist()])


def _read(path: str | None, folder: Path | None, column: str) -> bytes | None:
    if not path:
        return None
    file = Path(path) if folder is None else folder / path
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(
            f"column {column!r} names the image {str(file)!r}, which cannot be read"
            f" ({error.strerror}); correct the path, or make it null"
        ) from error
