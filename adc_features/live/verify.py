"""Is what is served what the accepted events say? Reads: the live directory, its files. Writes: a
report.

States and served rows are compared, bit for bit, with those that the batch engine makes of every
accepted event up to the last commit. Each difference names its view, feature and key. Of random ids
in the place of users who were forgotten nothing is kept, and nothing compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.aggregates.events import Events
from adc_features.aggregates.finalise import column_of
from adc_features.live.commit import LAST_COMMIT
from adc_features.live.elsewhere import Elsewhere, row_keys
from adc_features.live.history import Histories
from adc_features.live.recomputed import recomputed
from adc_features.live.tables import (
    META,
    ServedView,
    States,
    accepted_table,
    states_table,
)
from adc_features.store.lmdb.arrow_values import table_of
from adc_features.store.lmdb.environment import Environment
from adc_features.store.lmdb.row_table import read_rows

_SECOND = 1_000_000
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
    behind: of views that another online store serves, the keys that were not compared, because
    their rows were on their way there, or are newer than what was compared.
    """

    published: int | None
    events: dict[str, int]
    states: dict[str, dict[str, int]]
    features: list[FeatureReport]
    behind: dict[str, int] = field(default_factory=dict)

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
    ledger, elsewhere = histories.ledger, histories.elsewhere
    if elsewhere is not None:
        elsewhere.follow()
    tables = [
        META,
        *(table(name) for name in ledger.streams for table in (accepted_table, states_table)),
        *(one.outbox if one.elsewhere else one.table for one in ledger.views),
    ]
    random = np.random.default_rng(seed)
    report = OnlineReport(None, {}, {}, [])
    others: list[tuple[ServedView, pa.Table, set[bytes]]] = []
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
            made = recomputed(views, events, accepted)
            stored = States(held[states_table(name)])
            for of, states in made.states.items():
                keys = _drawn(sorted(states), sample, random)
                found = stored.states(of, keys)
                differing = sum(states[k] != s for k, s in zip(keys, found, strict=True))
                report.states[of] = {"keys": len(keys), "different": differing}
            for one in views:
                rows = made.rows[one.declared.name]
                rows = rows.take(pa.array(np.sort(_drawn(np.arange(len(rows)), sample, random))))
                if one.elsewhere:
                    others.append((one, rows, _waiting(one, held.get(one.outbox))))
                else:
                    served = served_rows(one, rows, held.get(one.table), ledger.environment)
                    report.features += _reports(one, rows, served)
    # another store answers through a network: no transaction stays open meanwhile
    for one, made_rows, on_their_way in others:
        assert elsewhere is not None
        _compare_elsewhere(report, one, made_rows, elsewhere, waiting=on_their_way)
    return report


def _waiting(one: ServedView, outbox: Any) -> set[bytes]:
    """The keys whose rows are on their way to another store."""
    entries = [] if outbox is None else [value for _, value in outbox.cursor()]
    return {key for entry in entries for key in row_keys(one, table_of(entry))}


def _compare_elsewhere(
    report: OnlineReport,
    one: ServedView,
    made: pa.Table,
    elsewhere: Elsewhere,
    *,
    waiting: set[bytes],
) -> None:
    """Compare what another store answers, by value. A row that it got after the moment that is
    compared, or has yet to get, is counted as such."""
    served, times = elsewhere.answers(one, made)
    moved = int(elsewhere.ledger.facts()["published"] or 0) > (report.published or 0)
    # stores that keep whole seconds floor them
    latest = np.where(times % _SECOND, times, times + _SECOND) if moved else times
    behind = (latest > (report.published or 0)) & moved
    behind |= np.array([key in waiting for key in row_keys(one, made)], bool)
    report.behind[one.declared.name] = int(behind.sum())
    report.features += _reports(one, made, served, keep=~behind)


def _drawn(values: Any, sample: int | None, random: np.random.Generator) -> Any:
    if sample is None or len(values) <= sample:
        return values
    chosen = random.choice(len(values), sample, replace=False).tolist()
    return [values[i] for i in chosen]


def served_rows(
    one: ServedView, made: pa.Table, table: Any, environment: Environment
) -> dict[str, pa.Array]:
    """The columns of a view as our store serves them, for the keys of some rows."""
    answer = read_rows(table, row_keys(one, made), environment)
    return {
        name: answer.to_arrow(name, made.schema.field(name).type)
        for name in (column_of(n, feature) for n, feature in one.declared.features.items())
    }


def differences(
    made: pa.Table, served: Mapping[str, pa.Array]
) -> Iterator[tuple[str, pa.Array, pa.Array, np.ndarray]]:
    """Of each feature: its name, what is served and what was computed, and bool [n], where these
    are not the same bits.
    """
    for name, answer in served.items():
        computed = made[name].combine_chunks()
        values = answer.cast(computed.type)
        yield name, values, computed, ~_same(values, computed)


def _reports(
    one: ServedView,
    made: pa.Table,
    answers: Mapping[str, pa.Array],
    *,
    keep: np.ndarray | None = None,
) -> list[FeatureReport]:
    """A report for each feature. keep: rows that are compared, bool; by default all."""
    keep = np.ones(len(made), bool) if keep is None else keep
    reports = []
    for name, served, computed, different in differences(made, answers):
        places = np.flatnonzero(different & keep)
        examples = [
            {
                "key": {key: made[key][i].as_py() for key in one.declared.key},
                "served": served[i].as_py(),
                "computed": computed[i].as_py(),
            }
            for i in places[:EXAMPLES].tolist()
        ]
        keys, view = int(keep.sum()), one.declared.name
        reports.append(FeatureReport(view, name, keys, len(places), examples))
    return reports


def _same(one: pa.Array, other: pa.Array) -> np.ndarray:
    """Which rows are equal, bit for bit; null equals null."""
    if pa.types.is_list(one.type):
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        return np.array([a == b for a, b in pairs], bool)
    equal = pc.fill_null(pc.equal(one, other), False)
    both_null = pc.and_(pc.is_null(one), pc.is_null(other))
    return pc.or_(equal, both_null).to_numpy(zero_copy_only=False)
