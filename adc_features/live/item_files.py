"""Items of a file. Reads: JSON lines. Writes: items of the live directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from adc_features.errors import InputError
from adc_features.live.items import Items
from adc_features.live.items_encoding import open_encoder
from adc_features.live.items_incoming import ItemFault, incoming_items

AT_ONCE = 256
"""Items of one commit."""
_TOLD = 20
"""Refused items that the answer explains; it counts all of them."""


class _Unread:
    """A line that is no JSON."""


def ingest_items(
    repo: Path,
    file: Path,
    *,
    generation: str | None = None,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> dict[str, Any]:
    """Add and remove the items of a file, a commit for every 256 lines.

    Called again after it was cut off, it describes the same items anew, with the same codes.

    Parameters
    ----------
    repo : Path
        A Feast repository with published codes.
    file : Path
        One JSON object a line, as POST /items takes them.
    generation : str, optional
        By default the only published one.
    progress : callable, optional
        Called with a label, the lines done and their number.

    Raises
    ------
    InputError
        There is no such file, or the tokenizer is not where it is kept.
    """
    if not Path(file).is_file():
        raise InputError(f"there is no file {file}; name one with a JSON object a line")
    items = Items(repo, open_encoder(repo, generation))
    facts: dict[str, Any] = {"generation": items.live.id, "added": 0, "removed": 0, "refused": 0}
    reasons: list[dict[str, Any]] = []
    lines, done, total = _lines(Path(file)), 0, sum(1 for _ in _lines(Path(file)))
    while part := list(islice(lines, AT_ONCE)):
        read = [(number, value) for number, value in part if not isinstance(value, _Unread)]
        asked = incoming_items(items.encoder.shape, [value for _, value in read])
        faults = [
            *(ItemFault(n, None, ("no JSON",)) for n, v in part if isinstance(v, _Unread)),
            *(fault._replace(place=read[fault.place][0]) for fault in asked.faults),
        ]
        receipt = items.commit(asked.changes)
        facts["added"] += receipt.added
        facts["removed"] += receipt.removed
        facts["refused"] += len(faults)
        told = ({"line": f.place, "id": f.id, "reasons": list(f.reasons)} for f in faults)
        reasons += islice(told, _TOLD - len(reasons))
        done += len(part)
        progress("items", done, total)
    items.follow()
    return {**facts, "reasons": reasons}


def _lines(file: Path) -> Iterator[tuple[int, Any]]:
    """The number of each line that is not blank, from 1, and its value."""
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if not line.strip():
                continue
            try:
                yield number, from_json(line)
            except ValueError:
                yield number, _Unread()
