"""Late events, counted after all. Reads: refused events, accepted events. Writes: one transaction
of the live directory.

What came after its watermark is in neither side: not in what is served, not in what a recomputation
gives. A correction brings it into both at once. The batch engine folds the accepted events and the
late ones together; what is different then from what is served, states and rows, is replaced, and
becomes visible at a publish time of its own. What was served before stays in the history: it was.

The folding takes as long as a recomputation and holds nobody up. What was accepted meanwhile is
folded in the transaction, by the other engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic_core import from_json

from adc_features.aggregates.declaration import EventStream
from adc_features.aggregates.events import EVENT_ID, Events, together
from adc_features.aggregates.folds import LEAST
from adc_features.aggregates.incremental import Advance, MemoryStates
from adc_features.aggregates.keys import keys_of
from adc_features.errors import ArtifactError
from adc_features.live.awaiting import look
from adc_features.live.commit import LAST_COMMIT, Commit
from adc_features.live.decisions import Decision, shown_time
from adc_features.live.history import Histories
from adc_features.live.incoming import incoming
from adc_features.live.recomputed import Recomputed, recomputed
from adc_features.live.tables import (
    CORRECTIONS,
    META,
    ServedView,
    States,
    accepted_table,
    states_table,
    time_key,
)
from adc_features.live.tombstones import TOMBSTONES
from adc_features.live.verify import differences, served_rows

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much."""


class _Found(NamedTuple):
    """Late events that are in no log. known: how many are, or were found twice; unknown: of items
    that are unknown, where the stream takes none of these; unreadable: as it is declared now.
    """

    events: Events
    known: int
    unknown: int
    unreadable: int


class _Before(NamedTuple):
    """A stream as of a commit. correction: how many there were. forgotten: the tombstones."""

    published: int
    watermark: int
    correction: int
    forgotten: dict[bytes, bytes]
    accepted: pa.Table


def correct(
    histories: Histories,
    stream: str,
    *,
    progress: Progress = lambda label, done, total: None,
) -> dict[str, Any]:
    """Fold the events of a stream that were refused as late.

    All of them count, on both sides, or none does: a process that dies leaves the one or the other,
    and the next call folds what is not folded yet. An event that is in the log already, because it
    was sent again after its id was forgotten, counts once.

    Parameters
    ----------
    histories : Histories
        Of the live directory.
    stream : str
    progress : callable
        Told which of three steps are done: read, folded, written.

    Returns
    -------
    dict
        The events that were folded, the rows that changed by view, the number of the correction
        and as of when it is served.

    Raises
    ------
    InputError
        A key would have more events than its sums hold; nothing was changed.
    ArtifactError
        Another correction came between, somebody was forgotten meanwhile, or the live directory
        cannot be written; nothing was changed.
    """
    ledger, declared = histories.ledger, histories.ledger.streams[stream]
    progress("correction", 0, 3)
    histories.drain()
    before = _before(histories, declared)
    late = _late(histories, declared, before)
    progress("correction", 1, 3)
    facts: dict[str, Any] = {"stream": stream, "corrected": len(late.events)}
    facts |= {"known": late.known, "unknown": late.unknown, "unreadable": late.unreadable}
    facts["correction"] = before.correction
    if not len(late.events):
        return facts
    after = together(Events.accepted(declared, before.accepted), late.events)
    views = [one for one in ledger.views if one.declared.stream == declared]
    made = recomputed(views, after, before.accepted)
    states = MemoryStates()
    states.kept.update(made.states)
    changed = _changed(histories, views, made)
    progress("correction", 2, 3)

    def change(tables: Mapping[str, Any]) -> dict[str, Any]:
        commit = Commit(ledger, tables, {})
        came = _number(commit.meta, stream) != before.correction
        if came or dict(tables[TOMBSTONES].cursor()) != before.forgotten:
            what = "the stream was corrected" if came else "somebody was forgotten"
            raise ArtifactError(
                f"{what} while late events of {stream!r} were folded; nothing was changed, correct"
                " again"
            )
        waiting = tables[accepted_table(stream)]
        since = histories.accepted(declared, waiting, since=before.published)
        step = ledger.engines[stream].advance(states, since)
        made = _over(changed, step, views)
        commit.log(late.events)
        commit.serve(declared, made)
        commit.count(stream, "corrected", len(late.events))
        number = before.correction + 1
        commit.meta.put(_key(stream), str(number).encode())
        done = facts | {
            "correction": number,
            "rows": {name: len(rows) for name, rows in made.rows.items()},
            "published": shown_time(commit.published),
        }
        line = json.dumps(done).encode() + b"\n"
        tables[CORRECTIONS].put(time_key(commit.published), line)
        commit.close()
        return done

    done = ledger.environment.write_tables(ledger.tables(), change)
    histories.drain()
    progress("correction", 3, 3)
    return done


def _before(histories: Histories, stream: EventStream) -> _Before:
    waiting = accepted_table(stream.name)
    with histories.ledger.environment.reading_tables([META, TOMBSTONES, waiting]) as held:
        meta: Any = held.get(META, {})
        published = int(meta.get(LAST_COMMIT) or 0)
        return _Before(
            published,
            int(meta.get(f"watermark/{stream.name}".encode()) or LEAST),
            _number(meta, stream.name),
            dict(held[TOMBSTONES].cursor()) if TOMBSTONES in held else {},
            histories.accepted_rows(stream, held.get(waiting), until=published),
        )


def _late(histories: Histories, stream: EventStream, before: _Before) -> _Found:
    """The late events among the refused ones; of an id and time the one that came first."""
    letters = list(_letters(histories, stream.name))
    read = incoming(stream, [one["event"] for one in letters])
    ids = read.table[EVENT_ID].combine_chunks()
    first = np.zeros(len(ids), bool)
    first[np.unique(np.array(ids.to_pylist(), "S16"), return_index=True)[1]] = True
    logged = pc.is_in(ids, value_set=before.accepted[EVENT_ID].combine_chunks())
    new = first & ~logged.to_numpy(zero_copy_only=False)
    # of a directory that was begun again it may be in time now: send it again
    late = new & (read.times < before.watermark)
    items = histories.ledger.items.get(stream.name)
    unknown = late & look(stream, items, [read]).lacks(read, stream)
    events = Events.of(stream, read.table.filter(pa.array(late & ~unknown)))
    events = events.where(np.flatnonzero(~histories.ledger.forgotten(events)))
    return _Found(events, int((~new).sum()), int(unknown.sum()), len(read.faults))


def _letters(histories: Histories, stream: str) -> Iterator[Any]:
    """Late events that were put aside, in the order in which they came."""
    late = Decision.LATE.name.lower()
    for path in (path for _, _, path in histories.letters().segments()):
        for line in path.read_bytes().splitlines():
            one = from_json(line)
            if one["stream"] == stream and one.get("outcome") == late:
                yield one


def _changed(histories: Histories, views: list[ServedView], made: Recomputed) -> Advance:
    """What of the states and newest rows is not what is kept and served."""
    (stream,) = {one.declared.stream.name for one in views}
    environment, kept = histories.ledger.environment, states_table(stream)
    states, served = {}, {}
    ours = {one.declared.name: one for one in views if not one.elsewhere}
    with environment.reading_tables([kept, *(one.table for one in ours.values())]) as held:
        stored = States(held[kept])
        for name, of_keys in made.states.items():
            pairs = zip(of_keys.items(), stored.states(name, list(of_keys)), strict=True)
            states[name] = {key: state for (key, state), before in pairs if state != before}
        for name, one in ours.items():
            served[name] = served_rows(one, made.rows[name], held.get(one.table), environment)
    for one in views:
        if one.elsewhere:  # a row that is on its way there is sent again
            assert histories.elsewhere is not None
            name = one.declared.name
            served[name], _ = histories.elsewhere.answers(one, made.rows[name])
    rows = {}
    for name, answers in served.items():
        changed = np.zeros(len(made.rows[name]), bool)
        for *_, different in differences(made.rows[name], answers):
            changed |= different
        rows[name] = made.rows[name].filter(pa.array(changed))
    return Advance(states, rows)


def _over(changed: Advance, step: Advance, views: list[ServedView]) -> Advance:
    """A change, and what a later step made of the keys that it touched."""
    states = {
        name: {**changed.states.get(name, {}), **step.states.get(name, {})}
        for name in {**changed.states, **step.states}
    }
    rows = {}
    for one in views:
        name, stream = one.declared.name, one.declared.stream
        of_view, newer = changed.rows[name], set(step.row_keys.get(name, ()))
        kept = [key not in newer for key in keys_of(stream, of_view, one.declared.key)]
        of_view = of_view.filter(pa.array(kept, pa.bool_()))
        both = pa.concat_tables([of_view, *([step.rows[name]] if newer else [])])
        if len(both):
            rows[name] = both
    return Advance(states, rows)


def _key(stream: str) -> bytes:
    return f"correction/{stream}".encode()


def _number(meta: Any, stream: str) -> int:
    """How many corrections of a stream there were."""
    return int(meta.get(_key(stream)) or 0)
