"""What only the whole catalogue tells: ids that stand twice, items that share their codes. Reads:
items, codes in parts. Writes: arrays.

Both are found in rounds: each takes the rows of one share of the hashes, so that memory is bounded
whatever the size of the catalogue, but for four bytes an item.

Legend: N items, L positions.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from adc_features.codes.embeddings import check_unique_ids, id_array
from adc_features.codes.id_keys import id_keys, mixed
from adc_features.codes.quality import collision_counts
from adc_features.codes.spec import NO_CODE

AT_ONCE = 1 << 22
"""Rows of a round, about."""

Columns = Callable[[], Iterator[pa.ChunkedArray]]
"""Reads the ids from the start."""
Codes = Callable[[], Iterator[np.ndarray]]
"""Reads the codes from the start, int32 [n, L] at a time."""


def check_ids(ids: Columns, rows: int, *, at_once: int = AT_ONCE) -> None:
    """Raise InputError where an id stands twice, is null, or ids are of several types."""
    rounds = _rounds(rows, at_once)
    suspects = np.concatenate([_repeated(ids, r, rounds) for r in range(rounds)])
    if not len(suspects):
        return
    # two strings may share a key, and are two items then
    found = [known[np.isin(id_keys(known), suspects)] for known in map(id_array, ids())]
    check_unique_ids(np.concatenate(found))


def _repeated(ids: Columns, one: int, rounds: int) -> np.ndarray:
    """The keys of a round that stand more than once."""
    taken = []
    for column in ids():
        keys = id_keys(id_array(column))
        taken.append(keys if rounds == 1 else keys[_share(keys, rounds) == one])
    keys = np.sort(np.concatenate(taken))
    return np.unique(keys[1:][keys[1:] == keys[:-1]])


def count_collisions(
    codes: Codes, rows: int, *, codebook_size: int, at_once: int = AT_ONCE
) -> np.ndarray:
    """How many items have the same codes at every position, each item itself included: int32 [N] in
    the order in which the codes are read.
    """
    counts, rounds = np.zeros(rows, np.int32), _rounds(rows, at_once)
    for one in range(rounds):
        taken = list(_taken(codes(), one, rounds))
        if sum(len(sid) for sid, _ in taken):
            sid = np.concatenate([sid for sid, _ in taken])
            counts[np.concatenate([places for _, places in taken])] = collision_counts(
                sid, codebook_size=codebook_size
            )
    return counts


def _taken(
    codes: Iterable[np.ndarray], one: int, rounds: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The codes of a round and the rows where they stand."""
    start = 0
    for sid in codes:
        places = np.arange(start, start + len(sid))
        start += len(sid)
        if rounds > 1:
            mine = _share(_code_hash(sid), rounds) == one
            sid, places = sid[mine], places[mine]  # noqa: PLW2901 -- what is kept of them
        yield sid, places


def _code_hash(sid: np.ndarray) -> np.ndarray:
    """uint64, equal where the codes are; others may have the same."""
    factors = mixed(np.arange(1, sid.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)
    return (sid - NO_CODE).astype(np.uint64) @ factors


def _share(keys: np.ndarray, rounds: int) -> np.ndarray:
    """The round of each key."""
    return mixed(keys) % np.uint64(rounds)


def _rounds(rows: int, at_once: int) -> int:
    return max(1, -(-rows // at_once))
