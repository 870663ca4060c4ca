"""Files that are named after the first and the last time that they hold. Reads: names, sizes.
Writes: nothing.

A merged segment covers those that it was made of. These lie beside it until nobody reads them any
more, and do not count meanwhile: a reader takes either the one or the others, never both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

_NAME = re.compile(r"(\d{20})-(\d{20})(\.\w+)")


def times_of(path: str) -> tuple[int, int] | None:
    """The first and the last time that a segment holds; None of another file."""
    found = _NAME.fullmatch(PurePath(path).name)
    return None if found is None else (int(found[1]), int(found[2]))


def uncovered(paths: Iterable[str]) -> list[str]:
    """Files without the segments that another one of their directory covers, by name.

    Examples
    --------
    >>> one, two, both = (f"{a:020d}-{b:020d}.parquet" for a, b in ((5, 7), (8, 9), (5, 9)))
    >>> uncovered([one, two, both, "part-0.parquet"]) == [both, "part-0.parquet"]
    True
    """
    segments: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
    found = []
    for path in paths:
        times = times_of(path)
        if times is None:
            found.append(path)
        else:
            place = PurePath(path)
            of_place = segments.setdefault((str(place.parent), place.suffix), [])
            of_place.append((times[0], -times[1], path))
    for of_place in segments.values():
        reached = -1
        for _, last, path in sorted(of_place):
            if -last > reached:
                reached = -last
                found.append(path)
    return sorted(found)
