"""Items as they are, before any encoder has read them. Reads: Arrow columns. Writes: RawItems."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError

TYPES: Mapping[str, pa.DataType] = {
    "title": pa.string(),
    "brand": pa.string(),
    "path": pa.list_(pa.string()),
    "further": pa.list_(pa.string()),
    "image": pa.binary(),
    "summary": pa.string(),
}

RAW_TOKENIZERS = ("unisid_e2e",)
"""Tokenizers that read raw items in the place of vectors."""


@dataclass(frozen=True)
class RawItems:
    """Raw columns of N items, for a tokenizer that tunes its own encoder (`unisid_e2e`).

    An `EmbeddingTable` carries them beside its vectors (`raw`), item by item in its order. Nulls
    and empty values are absent; blanks around texts are cut.

    Parameters
    ----------
    title : pyarrow string [N]
        What the item is called.
    brand : pyarrow string [N]
    path : pyarrow list<string> [N]
        The category path, coarse first.
    further : pyarrow list<string> [N]
        Values of further attributes, such as a colour.
    image : pyarrow binary [N]
        An encoded picture (JPEG, PNG, ...).
    summary : pyarrow string [N]
        A text of one sentence that the codes should tell, where the user has one.

    Raises
    ------
    InputError
        Columns of other types or of different lengths.

    Examples
    --------
    >>> raw = RawItems.of(title=["red shoe", None], path=[["Shoes", "Red"], []])
    >>> len(raw), raw.brand.to_pylist(), raw.take(np.array([1])).title.to_pylist()
    (2, [None, None], [None])

    Source
    ------
    UniSID, arXiv 2602.10445: its input is the raw item.
    """

    title: pa.Array
    brand: pa.Array
    path: pa.Array
    further: pa.Array
    image: pa.Array
    summary: pa.Array

    def __post_init__(self) -> None:
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        if len(set(lengths.values())) > 1:
            raise InputError(f"raw columns have the lengths {lengths}; give one value an item")
        for name, kind in TYPES.items():
            column = getattr(self, name)
            if column.type != kind:
                raise InputError(
                    f"raw column {name!r} is of type {column.type}; expected {kind}: build raw"
                    " items with RawItems.of or adc_features.data.raw_items"
                )

    def __len__(self) -> int:
        return len(self.title)

    @classmethod
    def of(cls, **columns: "list | pa.Array | pa.ChunkedArray") -> "RawItems":
        """Raw items of the columns that there are; the others are absent.

        Parameters
        ----------
        columns : list or pyarrow array
            By the names of RawItems' parameters.

        Returns
        -------
        RawItems

        Raises
        ------
        InputError
            No column, an unknown name, or values that are no text, list of texts or bytes.
        """
        if not columns or set(columns) - set(TYPES):
            raise InputError(
                f"raw columns are {list(columns)}; expected at least one of {list(TYPES)}"
            )
        length = len(next(iter(columns.values())))
        return cls(
            **{
                name: _cleaned(name, columns[name]) if name in columns else pa.nulls(length, kind)
                for name, kind in TYPES.items()
            }
        )

    def fingerprint(self) -> str:
        """What tells these items from others.

        Returns
        -------
        str
            sha256 of all columns, hex.
        """
        columns = [getattr(self, name).to_pylist() for name in TYPES]
        return hashlib.sha256(repr(columns).encode()).hexdigest()

    def take(self, rows: np.ndarray) -> "RawItems":
        """Some of the items.

        Parameters
        ----------
        rows : int64 [M] or bool [N]
            Row numbers, or a mask.

        Returns
        -------
        RawItems
            Those items, in that order.
        """
        numbers = pa.array(np.arange(len(self))[rows])
        return RawItems(**{name: getattr(self, name).take(numbers) for name in TYPES})

    def without(self, *names: str) -> "RawItems":
        """The same items with these columns absent.

        Parameters
        ----------
        names : str
            Columns, for example "path".

        Returns
        -------
        RawItems
        """
        return RawItems(
            **{
                name: pa.nulls(len(self), kind) if name in names else getattr(self, name)
                for name, kind in TYPES.items()
            }
        )


def _cleaned(name: str, values: "list | pa.Array | pa.ChunkedArray") -> pa.Array:
    """The column in its type, texts without blanks around them, empty values null."""
    kind = TYPES[name]
    try:
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
        array = array.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(f"raw column {name!r} cannot be read as {kind}: {error}") from error
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_string(kind):
        array = pc.utf8_trim_whitespace(array)
        return pc.if_else(pc.equal(array, ""), pa.scalar(None, kind), array)
    if pa.types.is_binary(kind):
        return pc.if_else(pc.equal(pc.binary_length(array), 0), pa.scalar(None, kind), array)
    cleaned = [
        [text.strip() for text in row or [] if text and text.strip()] or None
        for row in array.to_pylist()
    ]
    return pa.array(cleaned, kind)
