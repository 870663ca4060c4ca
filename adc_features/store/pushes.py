"""Pushed frames on their way online. Reads: pandas rows. Writes: Arrow tables in the view's names
and types.

Feast makes protos of a pushed frame before a store sees it, and changes values on the way; ours
asks for the frame itself (`_compat`), so that a push follows the one table of conversions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from adc_features.errors import InputError
from adc_features.store import _compat as feast
from adc_features.store.casts import MISFITS
from adc_features.store.lmdb.feature_values import check_columns


def takes(view: Any) -> bool:
    """Whether pushes of this view are ours to read: its rows come with their times."""
    return not isinstance(view, feast.OnDemandFeatureView) and view.batch_source is not None


def checked_frame(view: Any, frame: Any) -> Any:
    """A pushed frame under the names of the view; those of the source are taken, too.

    Raises InputError for columns that the frame lacks, or has twice.
    """
    if not takes(view):
        return frame
    names = _view_names(view, list(frame.columns))
    keys = [field.name for field in view.entity_columns if field.name != feast.DUMMY_ENTITY_ID]
    times = filter(None, times_of(view, names))
    check_columns(view.name, [*keys, *(field.name for field in view.features), *times], names)
    return frame.set_axis(names, axis=1)


def source_frame(view: Any, frame: Any) -> Any:
    """A frame under the names of the source; those of the view are taken, too.

    Raises InputError for a column that is there twice.
    """
    given = list(frame.columns)
    source_of = {new: old for old, new in _mapping(view).items() if old not in given}
    names = [source_of.get(name, name) for name in given]
    _refuse_twice(view, names)
    return frame.set_axis(names, axis=1)


def pushed_table(view: Any, frame: Any) -> pa.Table:
    """A pushed frame as a table in the view's names."""
    frame = checked_frame(view, frame)
    columns = {}
    for name in frame.columns:
        try:
            found = pa.array(frame[name], from_pandas=True)
        except (*MISFITS, OverflowError) as error:
            raise InputError(
                f"view {view.name}: {name} holds values of no common type ({error}); give each"
                " column one type"
            ) from error
        columns[name] = found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])
    if any(field.name == feast.DUMMY_ENTITY_ID for field in view.entity_columns):
        columns[feast.DUMMY_ENTITY_ID] = pa.chunked_array(
            [pa.array([feast.DUMMY_ENTITY_VAL] * len(frame))]
        )
    return pa.table(columns)


def times_of(view: Any, names: Collection[str]) -> tuple[str, str | None]:
    """Which of the rows' names are event and created time; None where there is no created time.

    A view may declare its times by the names of the source or by those that they are mapped to.
    """
    source, mapping = view.batch_source, _mapping(view)
    event, created = (
        name if name in names else mapping.get(name, name)
        for name in (source.timestamp_field, source.created_timestamp_column)
    )
    return event, created or None


def _view_names(view: Any, given: list[str]) -> list[str]:
    mapping = {old: new for old, new in _mapping(view).items() if new not in given}
    names = [mapping.get(name, name) for name in given]
    _refuse_twice(view, names)
    return names


def _refuse_twice(view: Any, names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"view {view.name}: the rows have columns {twice} more than once; bring each once"
        )


def _mapping(view: Any) -> Mapping[str, str]:
    return view.batch_source.field_mapping or {}
