"""Feast's values as columns, and back. Reads: feature views, Arrow tables, value protos. Writes:
what `records` lays out.

Numbers, times, text, bytes and lists of numbers or times pass as Arrow columns. Every other value
type is kept as the bytes of its proto, so that nothing Feast can store is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.event_times import timestamps
from adc_features.store import _compat as feast
from adc_features.store.casts import MISFITS, family, fitted
from adc_features.store.lmdb.columns import KINDS, OPAQUE
from adc_features.store.lmdb.records import Schema
from adc_features.store.lmdb.row_table import Answer

_LIST_MESSAGE = {
    "bool_list_val": feast.BoolList,
    "int32_list_val": feast.Int32List,
    "int64_list_val": feast.Int64List,
    "float_list_val": feast.FloatList,
    "double_list_val": feast.DoubleList,
    "unix_timestamp_list_val": feast.Int64List,
    "string_list_val": feast.StringList,
    "bytes_list_val": feast.BytesList,
}


def kind_of(value_type: feast.ValueType) -> str:
    """How values of a declared type are stored."""
    name = feast.VALUE_TYPE_TO_PROTO_VALUE_MAP.get(value_type, OPAQUE)
    return name if name in KINDS else OPAQUE


def schema_of(view: feast.FeatureView) -> Schema:
    """The declared features of a view."""
    return Schema(
        tuple((field.name, kind_of(field.dtype.to_value_type())) for field in view.features)
    )


def takes_arrow(view: feast.FeatureView) -> bool:
    """Can every feature of the view be written from Arrow without asking Feast to convert it?"""
    return all(kind != OPAQUE for _, kind in schema_of(view).features)


def arrow_type(dtype: Any) -> pa.DataType | None:
    """The Arrow type of a declared one.

    None for bytes and the like, which stay as files have them.
    """
    try:
        return feast.from_feast_to_pyarrow_type(dtype)
    except (ValueError, AssertionError):
        return None


def declared_types(view: feast.FeatureView) -> dict[str, pa.DataType]:
    """Features and keys with the types that a view declares, by the source's names."""
    source: Any = view.batch_source
    original = {new: old for old, new in (source.field_mapping or {}).items()}
    columns = [*view.features, *(f for f in view.entity_columns if f.name != feast.DUMMY_ENTITY_ID)]
    return {
        original.get(field.name, field.name): kind
        for field in columns
        if (kind := arrow_type(field.dtype)) is not None
    }


def columns_from_arrow(view: feast.FeatureView, table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The features of a table in their declared types, for a view that `takes_arrow`.

    Raises InputError for a missing column, or values that do not fit the type.
    """
    features = schema_of(view).features
    check_columns(view.name, [name for name, _ in features], table.column_names)
    return {
        name: declared(table[name], KINDS[kind].arrow, name=name, view=view.name)
        for name, kind in features
    }


def keys_from_arrow(view: feast.FeatureView, table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The join keys of a table in their declared types.

    Raises InputError as `columns_from_arrow`, and for keys that never match.
    """
    kinds = {column.name: kind_of(column.dtype.to_value_type()) for column in view.entity_columns}
    check_columns(view.name, list(kinds), table.column_names)
    keys = {}
    for name, kind in kinds.items():
        column, wanted = table[name], KINDS[kind].arrow
        if kind != OPAQUE:
            if not pa.types.is_null(column.type) and family(column.type) != family(wanted):
                raise InputError(
                    f"view {view.name}: key {name} is {column.type} in the rows and {wanted} in the"
                    " view: the two never match; convert one of them"
                )
            column = declared(column, wanted, name=name, view=view.name)
        keys[name] = column
    return keys


def conformed(
    view: feast.FeatureView, table: pa.Table, *, event: str, created: str | None = None
) -> pa.Table:
    """Rows before Feast makes protos of them: what is plain in its declared type, times as such.

    Raises InputError for rows without a time.
    """
    columns = keys_from_arrow(view, table)
    features = schema_of(view).features
    check_columns(
        view.name,
        [*(name for name, _ in features), event, *([created] if created else [])],
        table.column_names,
    )
    columns |= {
        name: declared(table[name], KINDS[kind].arrow, name=name, view=view.name)
        for name, kind in features
        if kind != OPAQUE
    }
    columns |= {
        time: timestamps(table[time], name=f"view {view.name}: {time}")
        for time in (event, created)
        if time
    }
    if lost := columns[event].null_count:
        raise InputError(
            f"view {view.name}: {lost} values of {event} are null; a row without its time cannot be"
            " compared, drop these rows"
        )
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def check_columns(view: str, wanted: Sequence[str], there: Sequence[str]) -> None:
    """Raise InputError for columns that the rows of a view lack."""
    if missing := [name for name in wanted if name not in there]:
        raise InputError(
            f"view {view}: the rows have no column {', '.join(missing)}; they have {list(there)},"
            " bring every key, feature and time"
        )


def declared(
    column: pa.ChunkedArray, kind: pa.DataType, *, name: str, view: str
) -> pa.ChunkedArray:
    """A column cast to its declared type, exactly.

    Missing whole numbers that pandas made NaN become null again.
    """
    try:
        return fitted(column, kind, name=f"view {view}: {name}")
    except MISFITS as error:
        raise InputError(
            f"view {view}: {name} is {column.type} in the rows and {kind} in the view, which does"
            f" not hold its values ({error}); correct the declaration or the rows"
        ) from error


def columns_from_protos(
    view: feast.FeatureView, rows: Sequence[Mapping[str, Any]]
) -> tuple[Schema, dict[str, pa.Array]]:
    """Rows of value protos that all have the same features, in their declared types.

    What is no plain type, or not declared at all, is kept as it came. Raises InputError for values
    that do not fit.
    """
    types = {field.name: kind_of(field.dtype.to_value_type()) for field in view.features}
    kinds, columns = [], {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        kind = types.get(name, OPAQUE)
        columns[name] = (
            _serialized(values)
            if kind == OPAQUE
            else _plain(values, kind, name=name, view=view.name)
        )
        kinds.append((name, kind))
    return Schema(tuple(kinds)), columns


def _plain(values: Sequence[Any], kind: str, *, name: str, view: str) -> pa.Array:
    """Protos as a column of the declared kind.

    Those of other kinds are converted, each kind as a column of its own.
    """
    found = [value.WhichOneof("val") for value in values]
    wanted = KINDS[kind].arrow
    parts = []
    for own in dict.fromkeys([kind, *found]):
        if own is None:
            continue
        if own not in KINDS:
            raise InputError(
                f"view {view}: {name} is {own} in the rows and {wanted} in the view; the two never"
                " meet, correct the declaration or the rows"
            )
        plain = [
            getattr(value, own) if is_own else None
            for value, is_own in zip(values, (there == own for there in found), strict=True)
        ]
        if own in _LIST_MESSAGE:
            plain = [None if value is None else list(value.val) for value in plain]
        parts.append(
            declared(
                pa.chunked_array([pa.array(plain, KINDS[own].arrow)]), wanted, name=name, view=view
            ).combine_chunks()
        )
    return parts[0] if len(parts) == 1 else pc.coalesce(*parts)


def protos(answer: Answer, name: str) -> list[Any]:
    """A feature of an answer as value protos, empty where absent."""
    nothing = feast.ValueProto()
    return [nothing if value is None else value for value in answer.to_python(name, _TO_PROTOS)]


def python_values(answer: Answer, name: str, value_type: feast.ValueType | None) -> list[Any]:
    """A feature of an answer as Feast shows it in Python, None where absent."""

    def opaque(values: list) -> list:
        shown = feast.feast_value_type_to_python_type
        return [None if value is None else shown(_parsed(value), value_type) for value in values]

    return answer.to_python(name, {**_SHOWN, OPAQUE: opaque})


def _serialized(values: Sequence[Any]) -> pa.Array:
    return pa.array(
        [
            None if value.WhichOneof("val") is None else value.SerializeToString()
            for value in values
        ],
        pa.binary(),
    )


def _parsed(value: bytes) -> Any:
    proto = feast.ValueProto()
    proto.ParseFromString(value)
    return proto


def _scalar_protos(kind: str) -> Callable[[list], list]:
    return lambda values: [
        None if value is None else feast.ValueProto(**{kind: value}) for value in values
    ]


def _list_protos(kind: str) -> Callable[[list], list]:
    message = _LIST_MESSAGE[kind]
    return lambda values: [
        None if value is None else feast.ValueProto(**{kind: message(val=value)})
        for value in values
    ]


_TO_PROTOS: dict[str, Callable[[list], list]] = {
    **{
        kind: _list_protos(kind) if kind in _LIST_MESSAGE else _scalar_protos(kind)
        for kind in KINDS
        if kind != OPAQUE
    },
    OPAQUE: lambda values: [None if value is None else _parsed(value) for value in values],
}


def _time(seconds: int) -> datetime | None:
    return None if seconds == np.iinfo(np.int64).min else datetime.fromtimestamp(seconds, tz=UTC)


_SHOWN: dict[str, Callable[[list], list]] = {
    "unix_timestamp_val": lambda values: [
        None if value is None else _time(value) for value in values
    ],
    "unix_timestamp_list_val": lambda values: [
        None if value is None else [_time(second) for second in value] for value in values
    ],
}
