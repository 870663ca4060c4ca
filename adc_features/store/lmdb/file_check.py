"""Is a `data.mdb` whole? Reads: the file, without mapping it; no lmdb, no feast.

LMDB maps the file, and touching a page that lies after its end kills the process (SIGBUS), so the
size is compared with what LMDB's newest meta page says before any page is touched. LMDB never
writes a page that a change took and gave back at once: a sound file may end before its last page,
as long as all pages that lie after its end are on the list of free pages.

Layout (LMDB 0.9, little-endian, 64 bits): page = header of 16 bytes: number u64, pad u16, flags
u16, lower u16, upper u16 (or u32, pages of an overflow); then u16 offsets of nodes. Node = low u16,
high u16, flags u16, key size u16, key, data. The first two pages are metas: magic u32, version u32,
address u64, map size u64, two trees of 48 bytes (that of the free pages first, page size in its
first 4 bytes, root in its last 8), last page u64, transaction u64.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from adc_features.errors import ArtifactError

_MAGIC = 0xBEEFC0DE
_HEADER, _NODE = 16, 8
_META = struct.Struct("<II16xI36xQ48xQQ")
_BRANCH, _META_PAGE, _BIG = 0x01, 0x08, 0x01
_NO_PAGE = 2**64 - 1
_TRIES = 5
"""A writer may commit between two reads of the file; then it is read again."""


class Meta(NamedTuple):
    """What the newest meta page says.

    page: bytes of a page; free_root: root of the tree of free pages, None when it is empty.
    """

    page: int
    free_root: int | None
    last_page: int
    transaction: int


class _Damaged(ValueError):
    """What is wrong with the file, in a few words."""


def check_whole(path: Path, what_to_do: str) -> int:
    """The bytes that the file may not lose.

    Raises ArtifactError when it is none of LMDB's, empty, or shorter than its pages.

    what_to_do: how the message ends.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error}); {what_to_do}") from error
    try:
        for _ in range(_TRIES - 1):
            try:
                return _needed(descriptor)
            except _Damaged:
                continue
        return _needed(descriptor)
    except (_Damaged, OSError) as error:
        raise ArtifactError(f"{path} is damaged: {error}; {what_to_do}") from error
    finally:
        os.close(descriptor)


def _needed(descriptor: int) -> int:
    meta = _newest_meta(descriptor)
    size, wanted = os.fstat(descriptor).st_size, (meta.last_page + 1) * meta.page
    if size >= wanted:
        return wanted
    first_missing = size // meta.page
    missing = (
        set(range(first_missing, meta.last_page + 1))
        if wanted - size < 1 << 40
        else {first_missing}
    )
    for free in _free_pages(descriptor, meta, first_missing):
        missing.difference_update(free)
    if missing:
        raise _Damaged(f"it has {size} bytes, its pages need {wanted}, so it was cut off")
    return first_missing * meta.page


def _newest_meta(descriptor: int) -> Meta:
    first = os.pread(descriptor, _HEADER + _META.size, 0)
    if not first:
        raise _Damaged("it is empty")
    meta = _meta(first)
    second = os.pread(descriptor, _HEADER + _META.size, meta.page)
    if len(second) < _HEADER + _META.size:
        raise _Damaged(
            f"it has {os.fstat(descriptor).st_size} bytes, two pages of {meta.page} are the least,"
            " so it was cut off"
        )
    return max(meta, _meta(second), key=lambda each: each.transaction)


def _meta(block: bytes) -> Meta:
    if len(block) < _HEADER + _META.size:
        raise _Damaged(
            f"it has {len(block)} bytes and no whole page, so it is not an LMDB file or was cut off"
        )
    (flags,) = struct.unpack_from("<H", block, 10)
    magic, _, page, free_root, last_page, transaction = _META.unpack_from(block, _HEADER)
    if magic != _MAGIC or not flags & _META_PAGE or not 512 <= page <= 1 << 16 or page & (page - 1):
        raise _Damaged("it is not an LMDB file")
    return Meta(page, None if free_root == _NO_PAGE else free_root, last_page, transaction)


def _free_pages(descriptor: int, meta: Meta, end: int) -> Iterator[tuple[int, ...]]:
    """The free pages, as the tree lists them.

    end: the first page that the file does not hold whole.
    """

    def read(page: int, pages: int = 1) -> bytes:
        if page + pages > end:
            raise _Damaged(
                f"it ends before page {page + pages - 1}, which is in use, so it was cut off"
            )
        return os.pread(descriptor, pages * meta.page, page * meta.page)

    waiting, seen = [] if meta.free_root is None else [meta.free_root], 0
    while waiting:
        page = read(waiting.pop())
        seen += 1
        flags, lower = struct.unpack_from("<HH", page, 10)
        if seen > end or not _HEADER <= lower <= meta.page:
            raise _Damaged("its list of free pages is damaged")
        for offset in struct.unpack_from(f"<{(lower - _HEADER) // 2}H", page, _HEADER):
            low, high, kind, key_size = _node(page, offset)
            if flags & _BRANCH:
                waiting.append(low | high << 16 | kind << 32)
                continue
            data, length = page[offset + _NODE + key_size :], low | high << 16
            if kind & _BIG:
                (at,) = _numbers(data, 1)
                data = read(at, -(-(length + _HEADER) // meta.page))[_HEADER:]
            (count,) = _numbers(data, 1)
            yield _numbers(data, count + 1)[1:]


def _node(page: bytes, offset: int) -> tuple[int, int, int, int]:
    if offset + _NODE > len(page):
        raise _Damaged("its list of free pages is damaged")
    low, high, kind, key_size = struct.unpack_from("<HHHH", page, offset)
    return low, high, kind, key_size


def _numbers(data: bytes, count: int) -> tuple[int, ...]:
    if 8 * count > len(data):
        raise _Damaged("its list of free pages is damaged")
    return struct.unpack_from(f"<{count}Q", data)
