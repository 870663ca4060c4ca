"""The values of one feature in many records.

Reads, writes: Arrow and numpy arrays; no feast, no files here.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import ArtifactError

OPAQUE = "opaque"


class Kind(NamedTuple):
    """How one value type is laid out.

    element: its numbers; varies: lists and text; arrow: the type of a column of it.
    """

    element: np.dtype
    varies: bool
    arrow: pa.DataType


def _scalar(element: str, arrow: pa.DataType) -> Kind:
    return Kind(np.dtype(element), False, arrow)


def _list(element: str, arrow: pa.DataType) -> Kind:
    return Kind(np.dtype(element), True, pa.list_(arrow))


BYTE = np.dtype("u1")
SECONDS = pa.timestamp("s", tz="UTC")
KINDS = {
    "bool_val": _scalar("?", pa.bool_()),
    "int32_val": _scalar("<i4", pa.int32()),
    "int64_val": _scalar("<i8", pa.int64()),
    "float_val": _scalar("<f4", pa.float32()),
    "double_val": _scalar("<f8", pa.float64()),
    "unix_timestamp_val": _scalar("<i8", SECONDS),
    "bool_list_val": _list("?", pa.bool_()),
    "int32_list_val": _list("<i4", pa.int32()),
    "int64_list_val": _list("<i8", pa.int64()),
    "float_list_val": _list("<f4", pa.float32()),
    "double_list_val": _list("<f8", pa.float64()),
    "unix_timestamp_list_val": _list("<i8", SECONDS),
    "string_val": Kind(BYTE, True, pa.string()),
    "bytes_val": Kind(BYTE, True, pa.binary()),
    "string_list_val": Kind(BYTE, True, pa.list_(pa.string())),
    "bytes_list_val": Kind(BYTE, True, pa.list_(pa.binary())),
    OPAQUE: Kind(BYTE, True, pa.binary()),
}
TEXT_LISTS = ("string_list_val", "bytes_list_val")


class Column(NamedTuple):
    """Values of one feature in n records.

    values: [n], or for kinds that vary the elements of all; offsets: int64 [n + 1] into them;
    valid: bool [n]. For lists of texts `values` are bytes, `texts` int64 [m + 1] says where each of
    the m texts begins, and offsets count texts.
    """

    kind: str
    values: np.ndarray
    offsets: np.ndarray | None
    valid: np.ndarray
    texts: np.ndarray | None = None

    @classmethod
    def from_arrow(cls, array: pa.Array) -> Column:
        """The inverse of `to_arrow`."""
        kind = next(name for name, kind in KINDS.items() if kind.arrow == array.type)
        valid, texts = array.is_valid().to_numpy(zero_copy_only=False), None
        if not KINDS[kind].varies:
            return cls(
                kind,
                plain_numbers(array.fill_null(False if kind == "bool_val" else 0)),
                None,
                valid,
            )
        offsets = np.zeros(len(array) + 1, np.int64)
        lengths = (
            pc.list_value_length(array) if pa.types.is_list(array.type) else pc.binary_length(array)
        )
        np.cumsum(lengths.fill_null(0).to_numpy(zero_copy_only=False), out=offsets[1:])
        element = array.drop_null().flatten() if pa.types.is_list(array.type) else array
        if pa.types.is_primitive(element.type):
            return cls(kind, plain_numbers(element), offsets, valid)
        if element is not array:
            texts = np.zeros(len(element) + 1, np.int64)
            np.cumsum(pc.binary_length(element).to_numpy(zero_copy_only=False), out=texts[1:])
        content = b"".join(element.drop_null().cast(pa.binary()).to_pylist())
        return cls(kind, np.frombuffer(content, BYTE), offsets, valid, texts)

    def scattered(self, places: np.ndarray, n: int) -> Column:
        """The values at rising places of n rows, the others not valid."""
        valid = np.zeros(n, bool)
        valid[places] = self.valid
        if self.offsets is None:
            values = np.zeros(n, self.values.dtype)
            values[places] = self.values
            return self._replace(values=values, valid=valid)
        offsets = np.zeros(n + 1, np.int64)
        offsets[places + 1] = np.diff(self.offsets)
        return self._replace(offsets=np.cumsum(offsets), valid=valid)

    def numbers(self) -> np.ndarray:
        """float64 [n], NaN where not valid."""
        values = self.values.astype(np.float64)
        values[~self.valid] = np.nan
        return values

    def flat(self) -> np.ndarray:
        """What all lists hold, one after another; texts as objects.

        Of a column of texts: the texts, "" where not valid.
        """
        if self.values.dtype != BYTE or self.offsets is None:
            return self.values
        return np.array(self._texts(self.offsets if self.texts is None else self.texts), object)

    def to_arrow(self) -> pa.Array:
        """The column in its kind's Arrow type, nulls where not valid."""
        kind, n = KINDS[self.kind], len(self.valid)
        mask = None if self.valid.all() else ~self.valid
        if self.offsets is None:
            return (
                pa.array(self.values, mask=mask)
                if kind.arrow != SECONDS
                else pa.array(self.values, pa.int64(), mask=mask).cast(SECONDS)
            )
        validity = None
        if mask is not None:
            validity = pa.py_buffer(np.packbits(self.valid, bitorder="little"))
        offsets = pa.py_buffer(self.offsets.astype(np.int32))
        if not pa.types.is_list(kind.arrow):
            return _whole(
                pa.Array.from_buffers(kind.arrow, n, [validity, offsets, pa.py_buffer(self.values)])
            )
        if self.texts is not None:
            places = pa.py_buffer(self.texts.astype(np.int32))
            element = _whole(
                pa.Array.from_buffers(
                    kind.arrow.value_type,
                    len(self.texts) - 1,
                    [None, places, pa.py_buffer(self.values)],
                )
            )
        else:
            element = pa.array(self.values)
            element = element.cast(SECONDS) if kind.arrow.value_type == SECONDS else element
        return pa.Array.from_buffers(kind.arrow, n, [validity, offsets], children=[element])

    def to_python(self) -> list:
        """Numbers, str, bytes and lists of numbers; None where not valid.

        Timestamps stay seconds, opaque values bytes.
        """
        if self.offsets is None:
            items = self.values.tolist()
        elif self.texts is not None:
            items = _sliced(self._texts(self.texts), self.offsets)
        elif self.values.dtype == BYTE:
            items = self._texts(self.offsets)
        elif len(self.valid) and (np.diff(self.offsets) == self.offsets[1]).all():
            items = self.values.reshape(len(self.valid), -1).tolist()
        else:
            items = _sliced(self.values.tolist(), self.offsets)
        if not self.valid.all():
            for i in np.flatnonzero(~self.valid).tolist():
                items[i] = None
        return items

    def _texts(self, offsets: np.ndarray) -> list:
        content = self.values.tobytes()
        if not self.kind.startswith("string"):
            return _sliced(content, offsets)
        if content.isascii():  # a character a byte: decoded as one
            return _sliced(content.decode("ascii"), offsets)
        return [item.decode() for item in _sliced(content, offsets)]


def _sliced(flat: Any, offsets: np.ndarray) -> list:
    return [flat[a:b] for a, b in itertools.pairwise(offsets.tolist())]


def _whole(array: pa.Array) -> pa.Array:
    """Texts that are UTF-8.

    Raises ArtifactError for others, on which a reader would fail without a name.
    """
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ArtifactError(
            f"the online store holds a text that is not UTF-8 ({error}); it is damaged, materialize"
            " the view again"
        ) from error
    return array


def plain_numbers(array: pa.Array) -> np.ndarray:
    """Numbers of an array without nulls; times as whole seconds."""
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    return array.to_numpy(zero_copy_only=False)
