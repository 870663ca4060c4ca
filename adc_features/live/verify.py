"""Is what is served what the accepted events say? Reads: the live directory, its files. Writes: a
report.

States and served rows are compared, bit for bit, with those that the batch engine makes of every
accepted event up to the last commit. Each difference names its view, feature and key. Of random ids
in the place of users who were forgotten nothing is kept, and nothing compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.aggregates.batch import batch_rows
from adc_features.aggregates.declaration import EventStream
from adc_features.aggregates.events import Events
from adc_features.aggregates.incremental import batch_states, newest_rows
from adc_features.aggregates.keys import keys_of
from adc_features.aggregates.plans import columns_of_states
from adc_features.live.commit import LAST_COMMIT
from adc_features.live.history import Histories
from adc_features.live.tables import (
    ANONYMOUS,
    META,
    ServedView,
    States,
    accepted_table,
    states_table,
)
from adc_features.store.lmdb.entity_keys import key_array
from adc_features.store.lmdb.environment import Environment
from adc_features.store.lmdb.row_table import read_rows

EXAMPLES = 10
"""Differences of a feature that a report shows."""


@dataclass
class FeatureReport:
    """One feature of one view. keys: compared; different: of them; examples: key, served and
    computed value.
    """

    view: str
    feature: str
    keys: int
    different: int
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class OnlineReport:
    """What was compared as of a publish time.

    events: accepted events, by stream. states: compared, and different ones, by view or ledger.
    """

    published: int | None
    events: dict[str, int]
    states: dict[str, dict[str, int]]
    features: list[FeatureReport]

    @property
    def different(self) -> int:
        """How many states and values differ."""
        return sum(one["different"] for one in self.states.values()) + sum(
            one.different for one in self.features
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {**asdict(self), "different": self.different}


def verify_online(
    histories: Histories, *, sample: int | None = None, seed: int = 0
) -> OnlineReport:
    """Compare what is served with what the accepted events say.

    Parameters
    ----------
    histories : Histories
        Of the live directory.
    sample : int, optional
        Compare this many keys of each view, drawn at random; by default all. Every accepted event
        is read in either case, because what is known of a key depends on others.
    seed : int
        Of the sample.

    Returns
    -------
    OnlineReport
    """
    ledger = histories.ledger
    tables = [
        META,
        *(table(name) for name in ledger.streams for table in (accepted_table, states_table)),
        *(one.table for one in ledger.views),
    ]
    random = np.random.default_rng(seed)
    report = OnlineReport(None, {}, {}, [])
    with ledger.environment.reading_tables(tables) as held:
        if META not in held:
            return report
        report.published = int(held[META].get(LAST_COMMIT) or 0)
        for name, stream in ledger.streams.items():
            waiting = held.get(accepted_table(name))
            accepted = histories.accepted_rows(stream, waiting, until=report.published)
            events = Events.accepted(stream, accepted)
            report.events[name] = len(events)
            views = [one for one in ledger.views if one.declared.stream == stream]
            if not len(events):
                continue
            states = batch_states([one.declared for one in views], events)
            stored = States(held[states_table(name)])
            columns = {n: by for one in views for n, by in columns_of_states(one.declared).items()}
            for of, made in states.items():
                nobody = anonymous_keys(stream, accepted, columns[of])
                keys = _drawn(sorted(made.keys() - nobody), sample, random)
                found = stored.states(of, keys)
                differing = sum(made[k] != s for k, s in zip(keys, found, strict=True))
                report.states[of] = {"keys": len(keys), "different": differing}
            for one in views:
                made_rows = newest_rows(one.declared, batch_rows(one.declared, events))
                nobody = anonymous_keys(stream, accepted, one.declared.key)
                if nobody:
                    of_rows = keys_of(stream, made_rows, one.declared.key)
                    made_rows = made_rows.filter(pa.array([k not in nobody for k in of_rows]))
                rows = np.sort(_drawn(np.arange(len(made_rows)), sample, random))
                report.features += _compared(
                    one, made_rows.take(pa.array(rows)), held.get(one.table), ledger.environment
                )
    return report


def anonymous_keys(stream: EventStream, accepted: pa.Table, columns: Sequence[str]) -> set[bytes]:
    """Keys of random ids, which stand where somebody was forgotten: nothing is kept for them."""
    marks = accepted[ANONYMOUS]
    named = (pc.match_substring(marks, f"|{column}|") for column in columns)
    theirs = reduce(pc.or_kleene, named, pa.repeat(pa.scalar(False), len(marks)))
    events = accepted.filter(pc.fill_null(theirs, False))
    return set(keys_of(stream, events, columns)) if len(events) else set()


def _drawn(values: Any, sample: int | None, random: np.random.Generator) -> Any:
    if sample is None or len(values) <= sample:
        return values
    chosen = random.choice(len(values), sample, replace=False).tolist()
    return [values[i] for i in chosen]


def _compared(
    one: ServedView, made: pa.Table, table: Any, environment: Environment
) -> list[FeatureReport]:
    keys = key_array({name: made[name].combine_chunks() for name in one.declared.key})
    answer = read_rows(table, keys.to_pylist(), environment)
    reports = []
    for name in one.declared.features:
        computed = made[name].combine_chunks()
        served = answer.to_arrow(name, computed.type)
        places = np.flatnonzero(~_same(served, computed))
        examples = [
            {
                "key": {key: made[key][i].as_py() for key in one.declared.key},
                "served": served[i].as_py(),
                "computed": computed[i].as_py(),
            }
            for i in places[:EXAMPLES].tolist()
        ]
        reports.append(FeatureReport(one.declared.name, name, len(made), len(places), examples))
    return reports


def _same(one: pa.Array, other: pa.Array) -> np.ndarray:
    """Which rows are equal, bit for bit; null equals null."""
    if pa.types.is_list(one.type):
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        return np.array([a == b for a, b in pairs], bool)
    equal = pc.fill_null(pc.equal(one, other), False)
    both_null = pc.and_(pc.is_null(one), pc.is_null(other))
    return pc.or_(equal, both_null).to_numpy(zero_copy_only=False)
