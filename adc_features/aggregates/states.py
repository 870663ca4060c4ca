"""What is kept of a key between batches of a stream, as bytes. Reads: bytes. Writes: bytes.

A state is a row of 8-byte little-endian words: a tag (format and layout), the sizes of its
sections, a block of numbers, then the sections: entries of `width` words each and, where entries
hold texts, their UTF-8 bytes, filled up to a whole word. An entry's last words hold the lengths of
its texts, 2 bytes each. The states of many keys are decoded and encoded at once.

Legend: K keys, F numbers, E entries of all keys, W words of an entry, C texts of an entry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pyarrow as pa

from adc_features.aggregates.ranges import range_sums, spans
from adc_features.errors import ArtifactError, NewerFormatError

FORMAT = 1
_PADS = pa.array(["\0" * n for n in range(8)])


@dataclass(frozen=True)
class Section:
    """Entries of `numbers` words, each with `texts` texts."""

    numbers: int
    texts: int = 0

    @property
    def width(self) -> int:
        return self.numbers + -(-self.texts // 4)


@dataclass(frozen=True)
class Entries:
    """The entries of one section of K states, sorted by key.

    key: int64 [E]. words: int64 [E, W]. texts: all texts, of each key its entries' in turn and then
    one that fills up the last word; None without.
    """

    section: Section
    key: np.ndarray
    words: np.ndarray
    texts: pa.Array | None = None

    def numbers(self, column: int) -> np.ndarray:
        return self.words[:, column]

    def text_places(self, column: int) -> np.ndarray:
        """Where in `texts` each entry's text of this column stands."""
        return np.arange(len(self.key)) * self.section.texts + column + self.key

    def ends(self, keys: int) -> np.ndarray:
        """int64 [K]: the place after each key's last entry."""
        return np.searchsorted(self.key, np.arange(keys), side="right")


@dataclass(frozen=True)
class Layout:
    """What the states of a view, or of a ledger, hold: `meaning` names it for the tag."""

    meaning: str
    empty: tuple[int, ...]
    sections: tuple[Section, ...]

    @property
    def tag(self) -> int:
        return FORMAT << 32 | crc32(self.meaning.encode())

    @property
    def head(self) -> int:
        return 1 + sum(1 + bool(s.texts) for s in self.sections)

    def decode(self, states: Sequence[bytes | None]) -> tuple[np.ndarray, list[Entries]]:
        """(int64 [K, F], the entries of each section); what is None is empty. Raises ArtifactError
        for bytes of another layout, NewerFormatError for those of a newer format.
        """
        empty = np.array([self.tag, *[0] * (self.head - 1), *self.empty], "<i8").tobytes()
        filled = [empty if one is None else one for one in states]
        size = np.fromiter(map(len, filled), np.int64, len(filled))
        joined = b"".join(filled)
        if len(joined) % 8 or (size % 8).any() or (size < len(empty)).any():
            raise ArtifactError(_DAMAGED.format(self.meaning))
        words, size = np.frombuffer(joined, "<i8"), size // 8
        start = np.cumsum(size) - size
        self._check(words[start])
        head = words[start[:, None] + np.arange(1, self.head)]
        at = start + self.head
        fixed = words[at[:, None] + np.arange(len(self.empty))]
        at, place, found = at + len(self.empty), 0, []
        wide = head @ self._word_counts()
        if (head < 0).any() or (self.head + len(self.empty) + wide != size).any():
            raise ArtifactError(_DAMAGED.format(self.meaning))
        for section in self.sections:
            count, place = head[:, place], place + 1
            entries = words[spans(at, count * section.width)].reshape(-1, section.width)
            at, texts = at + count * section.width, None
            key = np.repeat(np.arange(len(size)), count)
            if section.texts:
                blob, place = head[:, place], place + 1
                texts = _texts(section, entries, key, words[spans(at, blob)], blob)
                at = at + blob
            found.append(Entries(section, key, entries, texts))
        return fixed, found

    def _word_counts(self) -> np.ndarray:
        counts: list[int] = []
        for section in self.sections:
            counts += [section.width, 1] if section.texts else [section.width]
        return np.array(counts, np.int64)

    def _check(self, tags: np.ndarray) -> None:
        wrong = tags[tags != self.tag]
        if not len(wrong):
            return
        if int(wrong[0]) >> 32 > FORMAT:
            raise NewerFormatError(
                f"a state of {self.meaning.split(':')[0]} is of format {int(wrong[0]) >> 32}, this"
                f" version reads up to {FORMAT}; upgrade adc-features"
            )
        raise ArtifactError(
            f"a state of {self.meaning.split(':')[0]} belongs to another declaration; build the"
            " states again from the accepted events"
        )

    def encode(self, fixed: np.ndarray, entries: Sequence[Entries]) -> list[bytes]:
        """The state of each key: what `decode` reads."""
        keys = len(fixed)
        columns, parts = [np.full((keys, 1), self.tag)], []
        for one in entries:
            count = np.bincount(one.key, minlength=keys)
            columns.append(count[:, None])
            parts.append((count * one.section.width, one.words.reshape(-1)))
            if one.section.texts:
                blob = one.texts.buffers()[2] if one.texts is not None else None
                data = np.frombuffer(blob or b"", np.uint8)
                length = _blob_words(one, count)
                columns.append(length[:, None])
                parts.append((length, data[: 8 * int(length.sum())].view("<i8")))
        first = np.concatenate([*columns, fixed], axis=1).astype("<i8")
        parts.insert(0, (np.full(keys, first.shape[1]), first.reshape(-1)))
        size = np.sum([length for length, _ in parts], axis=0)
        at = np.cumsum(size) - size
        ends = (at + size) * 8
        out = np.empty(int(size.sum()), "<i8")
        starts = (at * 8).tolist()
        for length, values in parts:
            out[spans(at, length)] = values
            at = at + length
        whole = out.tobytes()
        return [whole[a:b] for a, b in zip(starts, ends.tolist(), strict=True)]


_DAMAGED = "a state of {} is damaged; build the states again from the accepted events"


def lengths(section: Section, words: np.ndarray) -> np.ndarray:
    """int64 [E, C]: the lengths of each entry's texts in bytes."""
    packed = np.ascontiguousarray(words[:, section.numbers :]).view("<u2")
    shape = len(words), 4 * (section.width - section.numbers)
    return packed.reshape(shape)[:, : section.texts].astype(np.int64)


def packed_lengths(section: Section, length: np.ndarray) -> np.ndarray:
    """int64 [E, words]: lengths [E, C] as an entry holds them."""
    filled = np.zeros((len(length), 4 * (section.width - section.numbers)), "<u2")
    filled[:, : section.texts] = length
    return filled.view("<i8").reshape(len(length), section.width - section.numbers)


def _sums_by_key(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    ends = np.cumsum(count)
    return range_sums(values, ends - count, ends)


def _blob_words(one: Entries, count: np.ndarray) -> np.ndarray:
    size = lengths(one.section, one.words).sum(axis=1)
    return -(-_sums_by_key(size, count) // 8)


def _with_fill(length: np.ndarray, key: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Lengths [E, C] in turn, after those of each key its filling."""
    texts = length.shape[1]
    found = np.empty(length.size + len(fill), np.int64)
    own = (np.arange(len(key)) * texts + key)[:, None] + np.arange(texts)
    found[own] = length
    found[fill_places(key, texts, len(fill))] = fill
    return found


def fill_places(key: np.ndarray, texts: int, keys: int) -> np.ndarray:
    """Where in `Entries.texts` each key's filling stands."""
    return np.searchsorted(key, np.arange(keys), side="right") * texts + np.arange(keys)


def _texts(
    section: Section, words: np.ndarray, key: np.ndarray, blob: np.ndarray, size: np.ndarray
) -> pa.Array:
    length = lengths(section, words)
    count = np.bincount(key, minlength=len(size))
    fill = size * 8 - _sums_by_key(length.sum(axis=1), count)
    if (fill < 0).any() or (fill > 7).any():
        raise ArtifactError(_DAMAGED.format("a view"))
    offsets = np.concatenate([[0], np.cumsum(_with_fill(length, key, fill))]).astype("<i4")
    return pa.StringArray.from_buffers(
        len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(blob))
    )


def filled(
    section: Section,
    key: np.ndarray,
    words: np.ndarray,
    texts: pa.Array,
    places: np.ndarray,
    *,
    keys: int,
) -> Entries:
    """Entries of K keys, sorted by key, whose texts stand at `places` [E, C] of `texts`."""
    source = pa.concat_arrays([texts, _PADS])
    size = _sums_by_key(lengths(section, words).sum(axis=1), np.bincount(key, minlength=keys))
    taken = _with_fill(places, key, len(texts) + -size % 8)
    return Entries(section, key, words, source.take(pa.array(taken)))
