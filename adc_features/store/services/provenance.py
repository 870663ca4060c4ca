"""From which row of its source did a join take each value? Reads: a Feast repository, joined rows,
the sources of their views. Writes: ViewRows.

The proof that a join looked at no future: each view's source is read whole through the offline
store, the row that was the newest at each row's time is found without the store's join, and what
was joined must be what stands there. Ties in time may go either way.

Legend: N joined rows, M rows of a source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.event_times import timestamps
from adc_features.inputs.schema import ServiceSchema
from adc_features.store.registry import open_any_store
from adc_features.store.services.parity import differing
from adc_features.store.services.plan import ServicePlan, StoredView, service_plan
from adc_features.store.services.values import arrow_type, in_declared_type

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME, _CREATED = "adc_time", "adc_created"
EXAMINED = 1_000
"""Rows with an unexpected value of which it is found out whether that is from the future."""


@dataclass(frozen=True)
class ViewRows:
    """What a view's values are made of.

    times: of the source's row, datetime64[us] [N]. known: bool [N], False where there is none.
    future: bool [N], a value that the source has at a later time only. different: bool [N], any
    other value than that of the source's row. first: the first of either, in words.
    """

    times: np.ndarray
    known: np.ndarray
    future: np.ndarray
    different: np.ndarray
    first: str | None


def source_rows(
    repo: Path,
    schema: ServiceSchema,
    joined: pa.Table,
    *,
    features: Sequence[str],
    until: datetime,
) -> dict[str, ViewRows]:
    """View -> the rows of its source that the values of joined rows stand in.

    Parameters
    ----------
    repo : Path
        The repository that they were joined from.
    schema : ServiceSchema
        Its service.
    joined : pyarrow.Table
        N rows of `join_service`.
    features : sequence of str
        Keys of the features that were joined. Those that Feast computes are left out: what they are
        computed from has rows, they have none.
    until : datetime
        Aware: sources are read up to here.

    Raises
    ------
    InputError
        A view has no batch source.
    """
    store = open_any_store(repo)
    plan = service_plan(store, schema, features)
    return {
        stored.name: _view_rows(store, plan, place, joined, until)
        for place, stored in enumerate(plan.stored)
        if any(p.stored == place for p in plan.places.values())
    }


def _view_rows(
    store: FeatureStore, plan: ServicePlan, place: int, joined: pa.Table, until: datetime
) -> ViewRows:
    stored = plan.stored[place]
    columns = {key: p.feature for key, p in plan.places.items() if p.stored == place}
    source = _source(store, stored, list(columns.values()), until)
    asked = [joined[column] for column in stored.keys.values()]
    own, theirs = _numbers(asked, [source[key] for key in stored.keys], len(joined), len(source))
    times = _microseconds(joined["event_timestamp"])
    at = _microseconds(source[_TIME])
    created = _microseconds(source[_CREATED]) if _CREATED in source.column_names else at
    order = np.lexsort((created, at, theirs))
    theirs, at = theirs[order], at[order]
    last = _last(theirs, at, own, times)
    known = last >= 0
    newest = np.where(known, at[np.maximum(last, 0)] if len(at) else 0, 0)
    if stored.ttl_seconds:
        known &= times - newest <= int(stored.ttl_seconds * 1_000_000)
    take = pa.array(order[np.maximum(last, 0)] if len(at) else np.zeros(len(own)), pa.int64())
    take = pc.if_else(pa.array(known), take, pa.scalar(None, pa.int64()))
    wrong = np.zeros(len(joined), bool)
    late = np.zeros(len(joined), bool)
    first: str | None = None
    for key, feature in columns.items():
        values, dtype = source[feature].combine_chunks(), stored.features[feature]
        found = joined[key].combine_chunks()
        rows = np.flatnonzero(differing(found, values.take(take), dtype))
        for row in rows[:EXAMINED].tolist():
            mine = np.arange(*np.searchsorted(theirs, [own[row], own[row] + 1]))
            tied = mine[at[mine] == newest[row]] if known[row] else mine[:0]
            after = mine[at[mine] > times[row]]
            if _stands(found, row, values, order[tied], dtype):
                continue
            ahead = _stands(found, row, values, order[after], dtype)
            late[row] |= ahead
            wrong[row] |= not ahead
            if first is None:
                first = _told(joined, stored, key, row, ahead)
        wrong[rows[EXAMINED:]] = True
    return ViewRows(newest.astype("datetime64[us]"), known, late, wrong & ~late, first)


def _stands(found: pa.Array, row: int, values: pa.Array, rows: np.ndarray, dtype: str) -> bool:
    """Whether a value stands in one of these rows of the source."""
    if not len(rows):
        return False
    repeated = found.take(pa.array(np.full(len(rows), row)))
    return not bool(differing(repeated, values.take(pa.array(rows)), dtype).all())


def _told(joined: pa.Table, stored: StoredView, key: str, row: int, ahead: bool) -> str:
    names = dict.fromkeys(stored.keys.values())
    of = ", ".join(f"{name} {joined[name][row].as_py()!r}" for name in names)
    what = "stands in a later row of the source" if ahead else "is not that of the source"
    return (
        f"{key} of {of} at {joined['event_timestamp'][row].as_py().isoformat()} is"
        f" {joined[key][row].as_py()!r}, which {what}"
    )


def _source(
    store: FeatureStore, stored: StoredView, features: list[str], until: datetime
) -> pa.Table:
    """Keys, features in their declared types, and times of a view's source."""
    from adc_features.store import _compat as feast

    view = stored.view
    if view.batch_source is None:
        raise InputError(f"view {stored.name} has no batch source, so its rows cannot be read")
    entities = [store.get_entity(name) for name in view.entities]
    joined, _, time, created = feast._get_column_names(view, entities)
    renamed = view.batch_source.field_mapping or {}
    back = {name: column for column, name in renamed.items()}
    with feast.quiet():
        offline: Any = store._get_provider().offline_store
        job = offline.pull_all_from_table_or_query(
            store.config,
            view.batch_source,
            joined,
            [back.get(name, name) for name in dict.fromkeys(features)],
            time,
            created,
            _EPOCH,
            until,
        )
        rows = job.to_arrow()
    table = rows.rename_columns([renamed.get(n, n) for n in rows.column_names])
    types = {f.name: str(f.dtype) for f in view.entity_columns} | stored.features
    columns = {
        name: in_declared_type(table[name], types[name], name=name)
        if name in types and arrow_type(types[name]) is not None
        else table[name]
        for name in dict.fromkeys([*stored.keys, *features])
    }
    columns[_TIME] = timestamps(table[renamed.get(time, time)], name=time)
    if created:
        columns[_CREATED] = timestamps(table[renamed.get(created, created)], name=created)
    return pa.table(columns)


def _numbers(
    one: Sequence[pa.ChunkedArray], other: Sequence[pa.ChunkedArray], rows: int, others: int
) -> tuple[np.ndarray, np.ndarray]:
    """The number of each combination of keys, in both tables alike: int64 [N] and [M]; a row of the
    first with a null key has one of its own."""
    codes = np.zeros(rows + others, np.int64)
    null = np.zeros(rows, bool)
    for a, b in zip(one, other, strict=True):
        null |= np.asarray(a.is_null())
        both = pa.concat_arrays([*a.chunks, *b.cast(a.type).chunks])
        found = pc.dictionary_encode(both, null_encoding="encode")
        numbers = found.indices.to_numpy().astype(np.int64)
        codes = codes * (int(numbers.max(initial=0)) + 1) + numbers
        codes = np.unique(codes, return_inverse=True)[1]
    own = codes[:rows].copy()
    own[null] = -1
    return own, codes[rows:]


def _last(theirs: np.ndarray, at: np.ndarray, own: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The place of the newest row of the same number at or before each time, -1 for none; theirs,
    at: sorted."""
    ranks = np.unique(np.concatenate([at, times]), return_inverse=True)[1]
    span = int(ranks.max(initial=0)) + 1
    sorted_, asked = theirs * span + ranks[: len(at)], own * span + ranks[len(at) :]
    place = np.searchsorted(sorted_, asked, side="right") - 1
    same = (place >= 0) & (own >= 0)
    if len(theirs):
        same &= theirs[np.maximum(place, 0)] == own
    return np.where(same, place, -1)


def _microseconds(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.timestamp("us")).to_numpy().astype("datetime64[us]").astype(np.int64)
