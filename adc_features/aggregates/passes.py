"""What the rows of a view need to know of other keys, and the passes that fetch it. Reads:
partitions of events. Writes: partitions of answers.

A pass spreads the columns that a question needs by the other key, each row with its place; answers
them file by file; and sends the answers, whole numbers, back to the file that holds their place.

Legend: N events of a partition.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from adc_features.aggregates.batch import Elsewhere, groups_of_part, residuals_of_part
from adc_features.aggregates.declaration import TIME, AggregateView, Residual
from adc_features.aggregates.events import Events, event_schema
from adc_features.aggregates.partitions import buckets
from adc_features.aggregates.parts import Part, all_parts, counted, prior_parts, residuals
from adc_features.errors import ArtifactError
from adc_features.partition_files import PartitionWriter, read_partition

PLACE = "adc_place"
_PART_BITS = 40
"""A place is the number of a partition and, in so many bits, that of a row in it."""
Step = Callable[[int, int], None]
"""Told how much of a pass is done, and of how much."""


@dataclass(frozen=True)
class Question:
    """What is asked of the events of one other key: residuals against it, or a group's parts."""

    columns: tuple[str, ...]
    residuals: tuple[Residual, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """The columns of the answers."""
        return tuple(f"answer_{k}" for k in range(len(self.residuals or self.parts)))

    @property
    def read(self) -> tuple[Residual, ...]:
        """The residuals that the parts are sums of."""
        found = (p.of for p in self.parts if isinstance(p.of, Residual))
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Needs:
    """What a view needs of other keys."""

    view: AggregateView

    @cached_property
    def everybody(self) -> tuple[Part, ...]:
        """Counts and sums of values over everybody."""
        found = [p for p in all_parts(self.view) if p.by == ()]
        for one in residuals(self.view):
            found += prior_parts(self.view, one, one.initial)
        return tuple(dict.fromkeys(p for p in found if not isinstance(p.of, Residual)))

    @cached_property
    def everybody_residuals(self) -> tuple[Part, ...]:
        """Sums of residuals over everybody."""
        return tuple(p for p in all_parts(self.view) if p.by == () and isinstance(p.of, Residual))

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """In the order in which they can be answered: residuals first, groups may sum them."""
        against: dict[tuple[str, ...], list[Residual]] = {}
        for one in residuals(self.view):
            against.setdefault(one.against, []).append(one)
        groups: dict[tuple[str, ...], list[Part]] = {}
        for part in all_parts(self.view):
            if part.by:
                groups.setdefault(part.by, []).append(part)
        return (
            *(Question(columns, residuals=tuple(each)) for columns, each in against.items()),
            *(Question(columns, parts=tuple(each)) for columns, each in groups.items()),
        )


def ask(
    view: AggregateView,
    question: Question,
    events: Path,
    target: Path,
    *,
    count: int,
    known: Callable[[int], dict[Residual, np.ndarray]],
    step: Step,
) -> None:
    """Spread what a question needs by its columns. known: the residuals of a partition's events, in
    the order of their places.
    """
    names = _needed(view, question)
    schema = pa.schema(
        [
            *(event_schema(view.stream).field(name) for name in names),
            *((f"residual_{k}", pa.int64()) for k in range(len(question.read))),
            (PLACE, pa.int64()),
        ]
    )
    with PartitionWriter(target, schema, count) as asked:
        for number in range(count):
            table = read_partition(events, number, names)
            found = known(number) if question.read else {}
            columns = [*table.select(names).columns, *(pa.array(found[r]) for r in question.read)]
            place = (number << _PART_BITS) + np.arange(len(table))
            table = pa.table([*columns, pa.array(place)], schema=schema)
            asked.add(table, buckets(view.stream, table, question.columns, count))
            step(number + 1, count)


def answer(
    view: AggregateView,
    question: Question,
    asked: Path,
    target: Path,
    *,
    count: int,
    everybody: Callable[[Part, np.ndarray], np.ndarray],
    told: Callable[[Events, Sequence[np.ndarray]], None],
    step: Step,
) -> None:
    """Answer each partition of `ask`. told: gets the events, in the order of their times, and the
    answers of each.
    """
    schema = pa.schema([(PLACE, pa.int64()), *((name, pa.int64()) for name in question.answers)])
    with PartitionWriter(target, schema, count) as answered:
        for number in range(count):
            table = read_partition(asked, number)
            order = np.argsort(table[TIME].to_numpy(), kind="stable")
            events = Events(view.stream, table.take(pa.array(order)).combine_chunks())
            read = {
                r: events.column(f"residual_{k}").to_numpy() for k, r in enumerate(question.read)
            }
            elsewhere = Elsewhere(everybody, residuals=read)
            if question.residuals:
                found = residuals_of_part(view, events, elsewhere, question.residuals)
            else:
                found = groups_of_part(view, events, elsewhere, question.parts)
            told(events, found)
            place = events.column(PLACE)
            made = pa.table([place, *map(pa.array, found)], schema=schema)
            answered.add(made, place.to_numpy() >> _PART_BITS)
            step(number + 1, count)


def answers_of(question: Question, answered: Path, number: int, rows: int) -> list[np.ndarray]:
    """int64 [N] of each answer to the events of a partition, in the order of their places."""
    table = read_partition(answered, number)
    place = table[PLACE].to_numpy() & ((1 << _PART_BITS) - 1)
    seen = np.zeros(rows, bool)
    seen[place[place < rows]] = True
    if len(place) != rows or not seen.all():
        raise ArtifactError(
            f"{answered} answers {len(place)} events of partition {number}, which has {rows}; the"
            " working directory was altered, remove it and start again"
        )
    found = [np.empty(rows, np.int64) for _ in question.answers]
    for name, column in zip(question.answers, found, strict=True):
        column[place] = table[name].to_numpy()
    return found


def _needed(view: AggregateView, question: Question) -> list[str]:
    values: list[str | None] = []
    for residual in (*question.residuals, *question.read):
        values.append(residual.of)
    for part in question.parts:
        values.append(counted(view.stream, part.of))
        values.append(part.of if isinstance(part.of, str) else None)
    names = [TIME, *question.columns, *(v for v in values if v is not None)]
    return list(dict.fromkeys(names))
