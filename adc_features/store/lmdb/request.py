"""What a request for online features asks for, checked.

Reads: feature names and entity rows of a request. Writes: columns and keys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.store import _compat as feast
from adc_features.store.column_names import refuse_shared
from adc_features.store.lmdb.entity_keys import integer_keys, key_array, text_keys

_PLAIN_IDS = {int, str}
_WHOLE_NUMBERS = (feast.ValueType.INT32, feast.ValueType.INT64)


def check_names(features: Any, registry: Any, project: str, *, full_feature_names: bool) -> None:
    """Raise InputError when two features, or a feature and a key, would leave under one name."""
    refs, _, _, _, join_keys, *_ = feast._get_cached_request_context(
        registry, project, features, full_feature_names
    )
    split = [ref.split(":", 1) for ref in refs]
    shown = [
        (f"{view}__{name}" if full_feature_names else name, f"view {view} feature {name}")
        for view, name in split
    ]
    # of on-demand views Feast has entities among them
    keys = [(key, f"join key {key}") for key in join_keys if isinstance(key, str)]
    refuse_shared(
        [*keys, *shown],
        advice=(
            "rename a view or a feature, give one view an alias (with_name), or ask for them in two"
            " calls"
        ),
    )


def checked_rows(
    entity_rows: Any, features: Any, registry: Any, project: str, *, full_feature_names: bool
) -> Any:
    """Entity rows as columns, ids as the whole numbers that they are.

    Rows that are no columns of plain Python values stay as they came. Raises InputError for ids
    that are null, fractions, or beyond 64 bits.
    """
    asked = by_column(entity_rows)
    if asked is None:
        return entity_rows
    if any(not set(map(type, values)) <= _PLAIN_IDS for values in asked.values()):
        join_keys = feast._get_cached_request_context(
            registry, project, features, full_feature_names
        )[4]
        asked = {
            name: [_whole_id(name, value) for value in values] if name in join_keys else values
            for name, values in asked.items()
        }
        _check_there(asked, join_keys)
    _check_whole_numbers(asked, features, registry, project, full_feature_names=full_feature_names)
    return asked


def _check_there(asked: Mapping[str, list], join_keys: Collection[str]) -> None:
    """Raise InputError for keys that are null or no single values; Feast would name neither."""
    import pandas as pd  # feast brings it

    for name in asked:
        for value in asked[name] if name in join_keys else ():
            if not pd.api.types.is_scalar(value) or pd.isna(value):
                raise InputError(
                    f"join key {name!r} is {value!r}; no row can have it, ask for ids that are"
                    " whole numbers or text"
                )


def _check_whole_numbers(
    asked: Mapping[str, list],
    features: Any,
    registry: Any,
    project: str,
    *,
    full_feature_names: bool,
) -> None:
    """Raise InputError for whole numbers beyond 64 bits; Feast would not say which."""
    types = feast._get_cached_request_context(registry, project, features, full_feature_names)[3]
    limits = np.iinfo(np.int64)
    for name, values in asked.items():
        if types.get(name) not in _WHOLE_NUMBERS:
            continue
        whole = (
            values
            if set(map(type, values)) == {int}
            else [value for value in values if isinstance(value, int)]
        )
        for value in (min(whole), max(whole)) if whole else ():
            if not limits.min <= value <= limits.max:
                raise InputError(
                    f"join key {name!r} is {value}, beyond whole numbers of 64 bits with sign; no"
                    " row can have it, ask for other keys"
                )


def by_column(entity_rows: Any) -> dict[str, list] | None:
    """Entity rows as columns of plain Python values; None when they are anything else."""
    if isinstance(entity_rows, list):
        if not entity_rows or any(row.keys() != entity_rows[0].keys() for row in entity_rows):
            return None
        return {name: [row[name] for row in entity_rows] for name in entity_rows[0]}
    # numpy, pandas
    columns = {
        name: values.tolist() if hasattr(values, "tolist") else values
        for name, values in entity_rows.items()
    }
    return (
        {name: list(values) for name, values in columns.items()}
        if all(isinstance(values, Sequence) for values in columns.values())
        else None
    )


def _whole_id(name: str, value: Any) -> Any:
    """A fraction or decimal as the integer that it is, the rest as it came.

    Raises InputError for 2.5, of which Feast would make 2.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, float | Decimal):
        return value
    if value != value:  # noqa: PLR0124  (a missing id that pandas made NaN)
        return None
    if value in (float("inf"), -float("inf")) or value != int(value):
        raise InputError(
            f"{name} is asked for {value!r}; ids are whole numbers or text, correct the request"
        )
    return int(value)


def row_keys(columns: Mapping[str, list], types: Mapping[str, Any]) -> list[bytes] | None:
    """The keys of rows.

    None when the values are not plainly of their declared types, which Feast converts or refuses.
    """
    for name, values in columns.items():
        wanted = (
            int
            if types[name] in _WHOLE_NUMBERS
            else str
            if types[name] == feast.ValueType.STRING
            else None
        )
        if wanted is None or set(map(type, values)) != {wanted}:
            return None
    try:
        if len(columns) > 1:
            return key_array(
                {name: pa.array(values) for name, values in columns.items()}
            ).to_pylist()
        (values,) = columns.values()
        return (
            text_keys(values)
            if isinstance(values[0], str)
            else integer_keys(np.array(values, np.int64))
        )
    except (OverflowError, UnicodeEncodeError, pa.ArrowInvalid):
        return None


def join_keys_of(table: Any) -> dict[str, feast.ValueType]:
    """The join keys of a view with their declared types."""
    return {column.name: column.dtype.to_value_type() for column in table.entity_columns}
