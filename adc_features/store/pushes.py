"""Pushed frames on their way online. Reads: pandas rows. Writes: Arrow tables in the view's names
and types.

Feast makes protos of a pushed frame before a store sees it, and changes values on the way; ours
asks for the frame itself (`_compat`), so that a push follows the one table of conversions.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from adc_features.errors import InputError
from adc_features.store import _compat as feast
from adc_features.store.casts import MISFITS
from adc_features.store.lmdb.feature_values import check_columns


def takes(view: Any) -> bool:
    """Whether pushes of this view are ours to read: its rows come with their times."""
    return not isinstance(view, feast.OnDemandFeatureView) and view.batch_source is not None


def check_frame(view: Any, frame: Any) -> None:
    """Raise InputError for columns that a pushed frame lacks, by the names of the view."""
    if takes(view):
        names = _renamed(view, list(frame.columns))
        keys = [field.name for field in view.entity_columns if field.name != feast.DUMMY_ENTITY_ID]
        check_columns(
            view.name,
            [*keys, *(field.name for field in view.features), *filter(None, times_of(view))],
            names,
        )


def pushed_table(view: Any, frame: Any) -> pa.Table:
    """A pushed frame as a table in the view's names."""
    check_frame(view, frame)
    columns = {}
    for old, new in zip(frame.columns, _renamed(view, list(frame.columns)), strict=True):
        try:
            found = pa.array(frame[old], from_pandas=True)
        except (*MISFITS, OverflowError) as error:
            raise InputError(
                f"view {view.name}: {new} holds values of no common type ({error}); bring one type"
                " a column"
            ) from error
        columns[new] = found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])
    if any(field.name == feast.DUMMY_ENTITY_ID for field in view.entity_columns):
        columns[feast.DUMMY_ENTITY_ID] = pa.chunked_array(
            [pa.array([feast.DUMMY_ENTITY_VAL] * len(frame))]
        )
    return pa.table(columns)


def times_of(view: Any) -> tuple[str, str | None]:
    """The columns of event and created time, None where there is no created time."""
    return view.batch_source.timestamp_field, view.batch_source.created_timestamp_column or None


def _renamed(view: Any, names: list[str]) -> list[str]:
    mapping = view.batch_source.field_mapping or {}
    return [mapping.get(name, name) for name in names]
