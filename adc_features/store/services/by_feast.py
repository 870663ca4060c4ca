"""One stored view, asked through Feast's own point-in-time join. Reads: an offline store, entity
rows. Writes: the view's columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from adc_features.errors import ArtifactError, InputError
from adc_features.store.offline.other_stores import distinct_rows
from adc_features.store.repository import UNSAFE_OFFLINE_STORES
from adc_features.store.services.plan import StoredView
from adc_features.store.services.values import MISFITS, arrow_type, in_declared_type

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore

TIME = "event_timestamp"
_ROW = "adc_row"
Progress = Callable[[str, int, int], None]
"""Called with a label, the steps done and their number."""


def by_feast(
    store: FeatureStore,
    stored: StoredView,
    frame: pa.Table,
    *,
    rows_at_once: int,
    progress: Progress | None,
) -> dict[str, pa.ChunkedArray]:
    """Feature -> column, by Feast's own point-in-time join of one view."""
    names, columns = list(stored.features), list(stored.keys.values())
    keyed, place = known_rows(frame, columns)
    first, pair = distinct_rows(keyed.select([*columns, TIME]))
    asked = keyed.select([*columns, TIME]).take(pa.array(first))
    asked = asked.rename_columns([*stored.keys, TIME])
    asked = asked.append_column(_ROW, pa.array(np.arange(len(asked))))
    pieces, found = [], []
    # pieces of neighbouring times, so that a database can leave the rest of its table alone
    steps = range(0, len(asked), rows_at_once)
    for done, start in enumerate(steps):
        if progress:
            progress(f"join {stored.name}", done, len(steps))
        piece = asked.slice(start, rows_at_once)
        got = _asked(store, stored, piece, names)
        found.append(got[_ROW].cast(pa.int64()).to_numpy())
        pieces.append(got)
    at = np.full(len(asked) + 1, -1)
    if found:
        numbers = np.concatenate(found)
        at[numbers] = np.arange(len(numbers))
    at = at[:-1][pair]
    if place is not None:
        at = np.where(place < 0, -1, at[np.maximum(place, 0)] if len(at) else -1)
    take = pa.array(at, pa.int64(), mask=at < 0)
    answer = {}
    for name in names:
        whole = [declared_column(piece[name], stored, name) for piece in pieces]
        kind = arrow_type(stored.features[name]) or pa.null()
        column = pa.chunked_array(
            [c for w in whole for c in w.chunks], whole[0].type if whole else kind
        )
        answer[name] = column.take(take)
    return answer


def _asked(
    store: FeatureStore, stored: StoredView, piece: pa.Table, names: Sequence[str]
) -> pa.Table:
    """One call of Feast: the row numbers and features that came back."""
    from adc_features.store import _compat as feast

    with feast.quiet():
        got = store.get_historical_features(
            piece.to_pandas(),
            [f"{stored.name}:{name}" for name in names],
            full_feature_names=True,
        ).to_arrow()
    numbers = got[_ROW].cast(pa.int64()).to_numpy()
    lost, extra = len(piece) - len(np.unique(numbers)), len(numbers) - len(np.unique(numbers))
    if extra or (lost and not _drops_the_unmatched(store)):
        raise ArtifactError(
            f"the offline store lost {lost} of {len(piece)} rows of view {stored.name!r} and gave"
            f" {extra} more than once; use another offline store, such as"
            " adc_features.store.offline_store.AsofOfflineStore"
        )
    # a pinned version is in the names of some stores and not in those of others
    shown = {
        name: next(
            c
            for c in (f"{stored.name}__{name}", f"{stored.view.name}__{name}")
            if c in got.column_names
        )
        for name in names
    }
    return pa.table({_ROW: got[_ROW]} | {name: got[column] for name, column in shown.items()})


def _drops_the_unmatched(store: FeatureStore) -> bool:
    """Whether the store leaves rows out for which a view has only later or expired values."""
    offline: Any = store.config.offline_store
    return getattr(offline, "type", offline) in UNSAFE_OFFLINE_STORES


def known_rows(frame: pa.Table, keys: Sequence[str]) -> tuple[pa.Table, np.ndarray | None]:
    """The rows with all keys, and the place of every row among them, -1 for others."""
    if not any(frame[key].null_count for key in keys):
        return frame, None
    known = np.ones(len(frame), bool)
    for key in keys:
        known &= np.asarray(frame[key].is_valid())
    place = np.where(known, np.cumsum(known) - 1, -1)
    return frame.filter(pa.array(known)), place


def keyed_rows(frame: pa.Table, stored: StoredView) -> tuple[pa.Table, np.ndarray | None]:
    """Keys and times of the rows with all keys of a view, and the places of `known_rows`."""
    columns = list(stored.keys.values())
    rows, place = known_rows(frame, columns)
    return rows.select([*columns, TIME]), place


def put_back(column: pa.ChunkedArray, place: np.ndarray | None) -> pa.ChunkedArray:
    """What rows with all keys have, for all rows: null for the others."""
    if place is None:
        return column
    return column.take(pa.array(place, mask=place < 0))


def declared_column(column: pa.ChunkedArray, stored: StoredView, name: str) -> pa.ChunkedArray:
    """A feature's column in its declared type. Raises InputError where it does not fit."""
    dtype = stored.features[name]
    try:
        return in_declared_type(column, dtype, name=name)
    except MISFITS as error:
        raise InputError(
            f"view {stored.name}: {name} is declared {dtype} and the offline store gives"
            f" {column.type}, which does not fit ({error}); correct the declaration or the rows"
        ) from error
