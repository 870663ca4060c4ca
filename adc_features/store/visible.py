"""Feature columns as readers see them, offline and online alike.

Reads: what a store returned. Writes: declared types, misses made visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from adc_features.codes.rows import with_missing_visible
from adc_features.store.column_names import refuse_shared
from adc_features.store.definitions import arrow_schema, is_sid_view
from adc_features.store.repository import live_generation

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureView


def found_column(view: FeatureView) -> str:
    """The column that says whether a view knew the key.

    `sid_found` for codes, else `<view>_found`.
    """
    return "sid_found" if is_sid_view(view) else f"{view.name}_found"


def visible_features(repo: Path, views: Sequence[FeatureView], raw: pa.Table) -> pa.Table:
    """Feature columns in declared types and with misses visible, offline and online alike.

    raw: the columns as a store returned them.
    Raises InputError when two columns would have one name.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    names = [
        (found_column(view), f"view {view.name}, to say whether it knew the key,") for view in views
    ]
    names += [
        (field.name, f"view {view.name} feature {field.name}")
        for view in views
        for field in view.features
    ]
    refuse_shared(names, advice="rename a view or a feature")
    for view in views:
        typed = {
            field.name: (
                raw[field.name]
                if raw.schema.field(field.name).type == field.type
                else raw[field.name].cast(field.type)
            )
            for field in arrow_schema(view)
        }
        declared = pa.table(typed)
        if is_sid_view(view):
            shown = with_missing_visible(
                declared, length=live_generation(repo, view.tags["generation"]).length
            )
        else:
            shown = declared.add_column(0, found_column(view), pa.array(_any_valid(declared)))
        columns |= dict(zip(shown.column_names, shown.columns, strict=True))
    return pa.table(columns)


def _any_valid(table: pa.Table) -> np.ndarray:
    """bool [N]: rows with a value in any column."""
    known = np.zeros(len(table), bool)
    for column in table.columns:
        known |= column.is_valid().to_numpy()
        if known.all():
            break
    return known
