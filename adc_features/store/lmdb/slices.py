"""Bytes of many records in one piece of memory. Reads: numpy arrays of bytes. Writes: slices of
them as arrays; no feast, no files here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.errors import ArtifactError
from adc_features.store.lmdb.columns import BYTE, Column


class Texts(NamedTuple):
    """Texts or bytes where they stand in the records: of row i, whole[starts[i] : stops[i]]."""

    kind: str
    whole: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    valid: np.ndarray

    def gathered(self) -> Column:
        """The same one after another."""
        return Column(self.kind, *gathered(self.whole, self.starts, self.stops, BYTE), self.valid)

    def to_arrow(self) -> pa.Array:
        """As of `Column`."""
        return self.gathered().to_arrow()

    def to_python(self) -> list:
        """As of `Column`."""
        return self.gathered().to_python()

    def checked(self) -> list[bytes]:
        """The same. Raises ArtifactError where a text is no UTF-8."""
        pieces = self.pieces()
        if self.kind == "string_val" and not b"".join(pieces).isascii():
            self.to_arrow()
        return pieces

    def pieces(self) -> list[bytes]:
        """The bytes of each; what stands where it is not valid means nothing."""
        whole: bytes = self.whole.base if isinstance(self.whole.base, bytes) else bytes(self.whole)
        return [whole[a:b] for a, b in zip(self.starts.tolist(), self.stops.tolist(), strict=True)]


def heads(whole: np.ndarray, begins: np.ndarray, kind: np.dtype) -> np.ndarray:
    """The fixed parts of records that begin at these bytes."""
    if not len(begins):
        return np.empty(0, kind)
    places = len(whole) - kind.itemsize + 1
    # an element at every byte, of which those of the records are copied
    every: np.ndarray = np.ndarray(places, np.dtype((np.void, kind.itemsize)), whole, strides=(1,))
    return every[begins].view(kind)


def gathered(
    body: np.ndarray, starts: np.ndarray, stops: np.ndarray, element: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Slices [start, stop) of bytes, joined and seen as elements.

    Also the int64 [n + 1] offsets of the slices.
    """
    lengths = stops - starts
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    width = element.itemsize
    if width > 1 and (lengths % width).any():
        raise ArtifactError(
            "the online store holds a list that is no whole number of elements; it is damaged,"
            " materialize the view again"
        )
    if len(lengths) == 1 or (len(lengths) and (starts[1:] == stops[:-1]).all()):
        flat = body[starts[0] : stops[-1]].copy()
    elif len(lengths) and width > 1 and lengths.min() == lengths.max() > 0:
        flat = heads(body, starts, np.dtype((np.void, int(lengths[0]))))
    else:
        place = np.repeat(starts - offsets[:-1], lengths)
        place += np.arange(offsets[-1])
        flat = body[place]
    return flat.view(element), offsets if width == 1 else offsets // width
