"""Sums over everybody as of any time, from events in any order. Reads: times and whole numbers.
Writes: a directory of arrays.

Pieces of events are summed by time, spread over files of a range of times each, and one range after
the other becomes prefix sums: memory holds one range. The finished arrays are mapped, not read.

Legend: N events, T different times, P parts, R rows.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from adc_features.aggregates.declaration import AggregateView, microseconds_of
from adc_features.aggregates.events import EVENT_ID, Events
from adc_features.aggregates.parts import Part, capacity_of, refuse_overflow

RANGE_EVENTS, MOST_RANGES = 2_000_000, 200
"""Events in a range of times, about; and how many ranges there are at most, each an open file."""
_TIMES, _SUMS, _FIRST = "times.i64", "sums.i64", "first.json"
EVERYBODY = Part("count", by=())
"""The number of events, which every timeline holds."""


def step_of(view: AggregateView) -> int:
    """The step, in microseconds, of the times as of which a view may ask."""
    return microseconds_of(view.stream.tick) if view.known == "sealed" else 1


def whole_part(part: Part) -> Part:
    """A part over everybody, whatever it holds before any event."""
    return replace(part, n=None)


class TimelineWriter:
    """Fills a directory, piece by piece. A context manager, which closes its files.

    parts : what is summed, over everybody. edges : int64, ascending, where ranges of times end.
    """

    def __init__(
        self, directory: Path, view: AggregateView, parts: Sequence[Part], edges: np.ndarray
    ) -> None:
        self._directory, self._step = directory, step_of(view)
        self.parts = tuple(dict.fromkeys([EVERYBODY, *map(whole_part, parts)]))
        self._edges = np.unique(edges // self._step)
        self._first: tuple[int, bytes, list[int]] | None = None
        self._open = ExitStack()
        self._files = [
            self._open.enter_context((directory / f"range-{k}").open("w+b"))
            for k in range(len(self._edges) + 1)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def add(self, events: Events, read: Callable[[Part], np.ndarray]) -> None:
        """Events in their order. read: int64 [N] of a part, 0 where an event does not count."""
        if not len(events):
            return
        columns = [np.ones(len(events), np.int64), *(read(part) for part in self.parts[1:])]
        event = events.table[EVENT_ID][0].as_py()
        first = (int(events.times[0]), event, [int(one[0]) for one in columns])
        self._first = first if self._first is None else min(first, self._first)
        self.add_sums(events.times, columns)

    def add_sums(self, times: np.ndarray, columns: Sequence[np.ndarray]) -> None:
        """Times, ascending, and int64 [N] of each part."""
        table = _summed(times // self._step, np.column_stack(columns))
        for k, rows in enumerate(np.split(table, np.searchsorted(table[:, 0], self._edges))):
            rows.tofile(self._files[k])

    def finish(self) -> None:
        """Write the arrays."""
        carry = np.zeros((1, len(self.parts)), np.int64)
        with (
            (self._directory / _TIMES).open("wb") as times,
            (self._directory / _SUMS).open("wb") as sums,
        ):
            carry.tofile(sums)
            for file in self._files:
                file.seek(0)
                table = np.fromfile(file, np.int64).reshape(-1, 1 + len(self.parts))
                table = table[np.argsort(table[:, 0], kind="stable")]
                table = _summed(table[:, 0], table[:, 1:])
                prefix = np.cumsum(np.concatenate([carry, table[:, 1:]]), axis=0)
                table[:, 0].tofile(times)
                prefix[1:].tofile(sums)
                carry = prefix[-1:]
        for k, file in enumerate(self._files):
            file.close()
            (self._directory / f"range-{k}").unlink()
        first = None if self._first is None else self._first[-1]
        (self._directory / _FIRST).write_text(json.dumps(first), encoding="utf-8")


@dataclass(frozen=True)
class Timeline:
    """times: int64 [T] in steps. sums: int64 [T + 1, P], before each time and after all. first: the
    first event's own P numbers.
    """

    view: AggregateView
    place: Mapping[Part, int]
    times: np.ndarray
    sums: np.ndarray
    first: Sequence[int]

    @classmethod
    def open(cls, directory: Path, view: AggregateView, parts: Sequence[Part]) -> "Timeline":
        """parts: those that it was written with, in that order."""
        place = {
            part: k for k, part in enumerate(dict.fromkeys([EVERYBODY, *map(whole_part, parts)]))
        }
        first = json.loads((directory / _FIRST).read_text(encoding="utf-8"))
        times, sums = (_mapped(directory / name) for name in (_TIMES, _SUMS))
        return cls(view, place, times, sums.reshape(-1, len(place)), first or [0] * len(place))

    def everybody(self, part: Part, cut: np.ndarray) -> np.ndarray:
        """int64 [R]: a sum or count over all events before each cut."""
        at = np.searchsorted(self.times, cut // step_of(self.view))
        if part.kind == "sum":
            most = int(self.sums[:, self.place[EVERYBODY]][at.max(initial=0)])
            capacity = capacity_of(self.view.stream, part.of)
            refuse_overflow(most, capacity, f"the view {self.view.name!r}")
        place = self.place[whole_part(part)]
        found = self.sums[:, place][at]
        return np.where(at == 0, self.first[place], found) if part.n else found


def _summed(times: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """int64 [T, 1 + P]: the different times, ascending as they come, and the sums of each."""
    if not len(times):
        return np.zeros((0, 1 + columns.shape[1]), np.int64)
    first = np.flatnonzero(np.concatenate([[True], times[1:] != times[:-1]]))
    return np.column_stack([times[first], np.add.reduceat(columns, first, axis=0)])


def _mapped(path: Path) -> np.ndarray:
    size = path.stat().st_size
    return np.memmap(path, np.int64, mode="r") if size else np.zeros(0, np.int64)
