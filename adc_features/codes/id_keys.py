"""Ids as 64-bit keys. Reads: arrays. Writes: arrays.

An integer id is its own key, less a base; a string's key is a hash, so that two strings of one key
have still to be compared.

Legend: M ids.
"""

import numpy as np

_SHIFT = np.uint64(32)


def id_keys(item_ids: np.ndarray, *, base: int = 0, seed: int = 0) -> np.ndarray:
    """uint64 [M] of ids int64 or str [M].

    Strings: the sum of code point i times an odd constant of i and the seed, so that padding counts
    for nothing.
    """
    if item_ids.dtype.kind != "U":
        return item_ids.view(np.uint64) - np.int64(base).astype(np.uint64)
    points = code_points(item_ids)
    place = np.arange(1, points.shape[1] + 1, dtype=np.uint64) + (np.uint64(seed) << _SHIFT)
    return points.astype(np.uint64) @ (mixed(mixed(place)) | np.uint64(1))


def code_points(item_ids: np.ndarray) -> np.ndarray:
    """The characters of strings, uint32 [M, longest]; 0 after the end of each."""
    return (
        np.ascontiguousarray(item_ids)
        .view(np.uint32)
        .reshape(len(item_ids), item_ids.dtype.itemsize // 4)
    )


def mixed(keys: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits whose upper half depends on every bit (as in splitmix64)."""
    keys = keys ^ (keys >> _SHIFT)
    keys *= np.uint64(0x9E3779B97F4A7C15)
    keys ^= keys >> np.uint64(29)
    keys *= np.uint64(0xBF58476D1CE4E5B9)
    return keys ^ (keys >> _SHIFT)
