"""Is what is served what the accepted events say? Reads: the live directory, its files. Writes: a
report.

States and served rows are compared, bit for bit, with those that the batch engine makes of every
accepted event up to the last commit. Each difference names its view, feature and key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.aggregates.batch import batch_rows
from adc_features.aggregates.finalise import column_of
from adc_features.aggregates.incremental import batch_states, newest_rows
from adc_features.live.commit import LAST_COMMIT
from adc_features.live.history import Histories
from adc_features.live.tables import META, ServedView, States, accepted_table, states_table
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
            events = histories.accepted(stream, waiting, until=report.published)
            report.events[name] = len(events)
            views = [one for one in ledger.views if one.declared.stream == stream]
            if not len(events):
                continue
            states = batch_states([one.declared for one in views], events)
            stored = States(held[states_table(name)])
            for of, made in states.items():
                keys = _drawn(sorted(made), sample, random)
                found = stored.states(of, keys)
                differing = sum(made[k] != s for k, s in zip(keys, found, strict=True))
                report.states[of] = {"keys": len(keys), "different": differing}
            for one in views:
                made_rows = newest_rows(one.declared, batch_rows(one.declared, events))
                rows = np.sort(_drawn(np.arange(len(made_rows)), sample, random))
                report.features += _compared(
                    one, made_rows.take(pa.array(rows)), held.get(one.table), ledger.environment
                )
    return report


def _drawn(values: Any, sample: int | None, random: np.random.Generator) -> Any:
    if sample is None or len(values) <= sample:
        return values
    chosen = random.choice(len(values), sample, replace=False).tolist()
    return [values[i] for i in chosen]


def _compared(
    one: ServedView, made: pa.Table, table: Any, environment: Environment
) -> list[FeatureReport]:
    reports = []
    for name, served, computed, places in differences(one, made, table, environment):
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


def differences(
    one: ServedView, made: pa.Table, table: Any, environment: Environment
) -> Iterator[tuple[str, pa.Array, pa.Array, np.ndarray]]:
    """Of each feature: its name, what is served and what was computed of the keys of some rows, and
    the places where these are not the same bits.
    """
    keys = key_array({name: made[name].combine_chunks() for name in one.declared.key})
    answer = read_rows(table, keys.to_pylist(), environment)
    for name in (column_of(n, feature) for n, feature in one.declared.features.items()):
        computed = made[name].combine_chunks()
        served = answer.to_arrow(name, computed.type)
        yield name, served, computed, np.flatnonzero(~_same(served, computed))


def _same(one: pa.Array, other: pa.Array) -> np.ndarray:
    """Which rows are equal, bit for bit; null equals null."""
    if pa.types.is_list(one.type):
        return np.array([a == b for a, b in zip(one.to_pylist(), other.to_pylist(), strict=True)])
    equal = pc.fill_null(pc.equal(one, other), False)
    both_null = pc.and_(pc.is_null(one), pc.is_null(other))
    return pc.or_(equal, both_null).to_numpy(zero_copy_only=False)
