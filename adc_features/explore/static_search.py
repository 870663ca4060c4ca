"""The search of exported pages, without a server. Reads: an index. Writes: pieces of a list of
items for the script of the page `search.html`.

A page that is opened as a file may fetch nothing, but it may load scripts beside it: a piece is
JSON in one call, of at most PIECE items.

Words are found as the service finds them: all of them, the last may be unfinished, the most popular
items first, and an item of exactly this id before all.
"""

import json
from collections.abc import Callable
from pathlib import Path

from adc_features.explore.index import Index

PIECE = 1_000
"""Items of a piece: at most 1 MB, as titles are cut."""
PAGE = "search"


def write_pieces(
    index: Index, directory: Path, items: int, file_of: Callable[[str], str | None]
) -> int:
    """Write `items-0.js` and so on, of the most popular items; returns how many pieces.

    file_of: the page of an id, None where it has none.
    """
    starts = range(0, items, PIECE)
    for number, start in enumerate(starts):
        told = [
            [str(one.id), one.title, one.about, file_of(str(one.id))]
            for one in index.named(range(start, min(start + PIECE, items)))
        ]
        # ASCII: half a character of an id is an escape, and no byte depends on an encoding
        text = json.dumps(told, ensure_ascii=True, separators=(",", ":"))
        (directory / f"items-{number}.js").write_text(f"adcItems({text});\n", encoding="ascii")
    return len(starts)
