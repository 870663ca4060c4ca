"""Answers from an index and the packed snapshots, without loading either. Reads: what `building`
wrote. Writes: nothing.

Legend: N items, M items asked for, S snapshots, L positions, K codes.
"""

import json
import re
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adc_features.artifact import read_manifest
from adc_features.errors import InputError, RequestError
from adc_features.explore.between import Between
from adc_features.explore.place import Place
from adc_features.store.packed.timeline import PackedTimeline, open_timeline
from adc_features.store.repository import LiveGeneration, publication_path

TITLE = 200
"""Characters of a title in a list; the item's own page has them all."""
AT_ONCE = 500
"""Ids that are looked for in one query."""
WORDS = 8
"""Words of a search that are looked for."""


@dataclass(frozen=True)
class Codes:
    """The codes of one generation.

    codes: int [S, L, N], memory-mapped. use: float64 [S, L, K, 4], items, weight, events and label
    sum of each code. posting int32 [L, N], starts int64 [L, K + 1]: rows of each code by falling
    weight. collisions: int32 [S, N], how many items have an item's codes; crowded, by snapshot:
    what `crowding` counts. cutoffs: of each snapshot its place in the index's times.
    between: what came or went since the newest snapshot.
    """

    id: str
    timeline: PackedTimeline
    codes: np.ndarray
    use: np.ndarray
    posting: np.ndarray
    starts: np.ndarray
    collisions: np.ndarray
    crowded: list[dict[str, Any]]
    positions: list[str]
    tokenizer: str | None
    cutoffs: list[int]
    between: Between

    @property
    def length(self) -> int:
        """L."""
        return self.codes.shape[1]

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.use.shape[2]

    def position_name(self, position: int) -> str:
        """The place, and what it reads where that is known."""
        return f"{position} {self.positions[position]}".strip()

    def rows_of(self, position: int, code: int) -> np.ndarray:
        """Rows of the newest snapshot's items with a code, the heaviest first, int32."""
        start, end = self.starts[position, code : code + 2]
        return self.posting[position, start:end]

    def as_of(self, snapshot: int) -> datetime:
        """The cut-off of a snapshot, exclusive."""
        return self.timeline.snapshots[snapshot].as_of


class Named(NamedTuple):
    """A row, as a list shows it. about: brand and category. label_rate: None without events."""

    id: Any
    title: str | None
    about: str | None
    events: int | None
    label_rate: float | None


class Index:
    """An open index; threads may share it.

    generations: by id, oldest first. events int64 [T, N], labels float32 [T, N]: as of each
    cut-off, the last in all; vectors: modality -> float16 [N, D]; vectors_of: where each is from;
    no_vectors: why a source of vectors could not be read.
    """

    def __init__(self, directory: Path, place: Place) -> None:
        self.directory, self.place = directory, place
        facts = read_manifest(directory, verify=False)
        self.items: int = facts["items"]
        self.id_type: str = facts["id_type"]
        self.has_events: bool = facts["has_events"]
        self.events = np.load(directory / "events.npy", mmap_mode="r")
        self.labels = np.load(directory / "labels.npy", mmap_mode="r")
        told = {one["modality"]: (name, one["of"]) for name, one in facts["vectors"].items()}
        self.vectors = {
            modality: np.load(directory / "vectors" / f"{name}.npy", mmap_mode="r")
            for modality, (name, _) in told.items()
        }
        self.vectors_of = {modality: of for modality, (_, of) in told.items()}
        self.no_vectors: str | None = facts["no_vectors"]
        self.generations = {
            live.id: _open_codes(directory / live.id, place, live, facts["generations"][live.id])
            for live in place.generations()
            if live.id in facts["generations"]
        }
        # nobody writes a finished index, and without locks it may lie on a read-only disk
        self._database = sqlite3.connect(
            f"{(directory / 'items.sqlite').resolve().as_uri()}?mode=ro&immutable=1",
            uri=True,
            check_same_thread=False,
        )
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    @property
    def newest(self) -> Codes:
        """The codes of the generation that was published last. Raises InputError when none was."""
        if not self.generations:
            raise InputError(
                f"no codes are published in {self.place.repo}; publish a generation first"
            )
        return next(reversed(self.generations.values()))

    def codes(self, generation: str | None) -> Codes:
        """Those of a generation, by default the newest. Raises RequestError for an unknown one."""
        if not generation:
            return self.newest
        if generation not in self.generations:
            raise RequestError(
                f"generation is {generation[:40]!r}; published are {', '.join(self.generations)}"
            )
        return self.generations[generation]

    def typed(self, item_id: str) -> Any:
        """An id as the catalogue has it, from its text; None for one that it cannot have."""
        if self.id_type != "int64":
            return item_id
        if not re.fullmatch(r"-?\d{1,19}", item_id) or not -(1 << 63) <= int(item_id) < 1 << 63:
            return None
        return int(item_id)

    def row(self, item_id: str) -> int | None:
        """The row of an item, by its id as text; None where there is none."""
        if (wanted := self.typed(item_id)) is None:
            return None
        try:
            found = self._asked("SELECT row FROM items WHERE id = ?", [wanted])
        except UnicodeEncodeError:  # half a character
            return None
        return found[0][0] - 1 if found else None

    def known(self, item_ids: Sequence[Any]) -> np.ndarray:
        """Which of these ids, in the type of the catalogue, are in it: bool [M]."""
        found: set[Any] = set()
        for start in range(0, len(item_ids), AT_ONCE):
            part = item_ids[start : start + AT_ONCE]
            marks = ", ".join("?" * len(part))
            rows = self._asked(f"SELECT id FROM items WHERE id IN ({marks})", part)
            found.update(one for (one,) in rows)
        return np.array([one in found for one in item_ids], bool)

    def state(self) -> tuple[int, ...]:
        """Another one when any item came or went."""
        return tuple(codes.between.state() for codes in self.generations.values())

    def search(self, text: str, *, limit: int, offset: int = 0) -> list[int]:
        """Rows whose words begin or equal those of a text, the most popular first; an item of
        exactly this id before all. Without words, the most popular items.
        """
        # as text, never as a query of FTS5's own language
        words = re.findall(r"\w+", text)[:WORDS]
        if not words:
            return list(range(offset, min(offset + limit, self.items)))
        # the last word may be unfinished; one letter would begin half of all words
        last = f'"{words[-1]}"' + ("*" if len(words[-1]) > 1 else "")
        query = " ".join([*(f'"{word}"' for word in words[:-1]), last])
        sql = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid LIMIT ? OFFSET ?"
        rows = [row - 1 for (row,) in self._asked(sql, [query, limit, offset])]
        exact = self.row(text.strip())
        if exact is not None:
            rows = [row for row in rows if row != exact]
            rows = [exact, *rows] if offset == 0 else rows
        return rows

    def named(self, rows: Iterable[int]) -> list[Named]:
        """What lists show of rows, in their order; long titles cut."""
        rows = [int(row) for row in rows]
        if not rows:
            return []
        marks = ", ".join("?" * len(rows))
        columns = f"row, id, substr(title, 1, {TITLE + 1}), about"
        sql = f"SELECT {columns} FROM items WHERE row IN ({marks})"
        found = {row: rest for row, *rest in self._asked(sql, [row + 1 for row in rows])}
        return [self._named(row, *found[row + 1]) for row in rows]

    def whole_title(self, row: int) -> str | None:
        """The title of a row, however long."""
        title: str | None = self._asked("SELECT title FROM items WHERE row = ?", [row + 1])[0][0]
        return title

    def _named(self, row: int, item_id: Any, title: str | None, about: str | None) -> Named:
        events = int(self.events[-1, row])
        cut = f"{title[:TITLE]}…" if title is not None and len(title) > TITLE else title
        if not self.has_events:
            return Named(item_id, cut, about, None, None)
        return Named(item_id, cut, about, events, rate(self.labels[-1, row], events))

    def _asked(self, sql: str, values: Sequence[Any]) -> list[Any]:
        with self._lock:
            return self._database.execute(sql, values).fetchall()


def rate(labels: float, events: float) -> float | None:
    """The mean label; None without events."""
    return float(labels) / float(events) if events else None


def _open_codes(folder: Path, place: Place, live: LiveGeneration, said: dict[str, Any]) -> Codes:
    arrays = {
        part: np.load(folder / f"{part}.npy", mmap_mode="r")
        for part in ("codes", "use", "posting", "starts", "collisions")
    }
    timeline = open_timeline(publication_path(place.repo, live.id)).timeline
    return Codes(
        id=live.id,
        timeline=timeline,
        between=Between(place, live, timeline),
        crowded=json.loads((folder / "crowded.json").read_text(encoding="utf-8")),
        positions=said["positions"],
        tokenizer=said["tokenizer"],
        cutoffs=said["cutoffs"],
        **arrays,
    )


def is_current(index: Index) -> bool:
    """Whether the index still says what is published."""
    try:
        made_of = read_manifest(index.directory, verify=False)["made_of"]
        return bool(made_of == index.place.made_of())
    except OSError:
        return False
