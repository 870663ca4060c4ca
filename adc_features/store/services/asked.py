"""What a request carries, checked. Reads: keys and request fields as Python values. Writes: Arrow
columns in their declared types.

Nothing is converted in silence: 12 is not "12", a fraction is no whole number, NaN is no number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.errors import RequestError
from adc_features.store.services.values import arrow_type, element

_LIMITS: dict[str, Any] = {"Int32": np.iinfo(np.int32), "Int64": np.iinfo(np.int64)}
_EXPECTED = {
    "Bool": "true or false",
    "Int32": "a whole number of 32 bits",
    "Int64": "a whole number of 64 bits",
    "Float32": "a finite number",
    "Float64": "a finite number",
    "String": "text",
    "Uuid": "a UUID as text",
    "TimeUuid": "a UUID as text",
    "Bytes": "bytes",
    "UnixTimestamp": "a time with its zone, as ISO 8601 text or an aware datetime",
    "ZonedTimestamp": "a time with its zone, as ISO 8601 text or an aware datetime",
    "Decimal": "a finite decimal number",
}
_SHOWN = 60


def key_column(values: Sequence[Any], dtype: str, *, name: str) -> pa.Array:
    """A join key of N rows. Raises RequestError for a value that is missing or of another type."""
    plain = values.tolist() if hasattr(values, "tolist") else list(values)
    kinds = set(map(type, plain))
    quick = (dtype == "String" and kinds <= {str}) or (dtype == "Int64" and kinds <= {int})
    if not quick:
        plain = [_key(value, dtype, name, row) for row, value in enumerate(plain)]
    try:
        return pa.array(plain, arrow_type(dtype))
    except (OverflowError, pa.ArrowInvalid, UnicodeEncodeError) as error:
        raise RequestError(
            f"join key {name} holds a value that is not {_EXPECTED[dtype]} ({error}); send keys as"
            " they are stored"
        ) from error


def _key(value: Any, dtype: str, name: str, row: int) -> Any:
    if value is None:
        raise RequestError(
            f"join key {name} of row {row} is missing; expected {_EXPECTED.get(dtype, dtype)}"
        )
    return _scalar(value, dtype, f"join key {name}")


def request_columns(
    request: Mapping[str, Any], types: Mapping[str, str], *, optional: Collection[str] = ()
) -> dict[str, pa.Array]:
    """The request's fields as columns of one row; optional ones that are missing are null.

    types: every known field -> Feast type. Raises RequestError naming all unknown fields, all
    missing ones, or the first value of another type.
    """
    if unknown := sorted(set(request) - set(types)):
        raise RequestError(
            f"the request has unknown fields {unknown}; known are {sorted(types) or 'none'}"
        )
    missing = [n for n in types if request.get(n) is None and n not in optional]
    if missing:
        raise RequestError(
            "the request lacks "
            + ", ".join(f"{n} ({_described(types[n])})" for n in missing)
            + "; send them with it"
        )
    return {name: request_column(request.get(name), types[name], name) for name in types}


def request_column(value: Any, dtype: str, name: str) -> pa.Array:
    """One field's value as a column of one row."""
    what = f"request field {name}"
    if value is not None and element(dtype) != dtype:
        if not isinstance(value, list | tuple | set | frozenset | np.ndarray):
            raise RequestError(
                f"{what} is {_show(value)}; expected a list, each element {_described(dtype)}"
            )
        value = [_scalar(v, element(dtype), f"an element of {what}") for v in value]
    elif value is not None:
        value = _scalar(value, dtype, what)
    return pa.array([value], arrow_type(dtype))


def _described(dtype: str) -> str:
    inner = _EXPECTED.get(element(dtype), element(dtype))
    return inner if element(dtype) == dtype else f"a list of {inner}"


def _scalar(value: Any, dtype: str, what: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    made = _READ[dtype](value) if dtype in _READ else None
    if dtype in _LIMITS and made is not None:
        made = made if _LIMITS[dtype].min <= made <= _LIMITS[dtype].max else None
    if made is None:
        raise RequestError(
            f"{what} is {_show(value)} ({type(value).__name__}); expected"
            f" {_EXPECTED.get(dtype, dtype)}"
        )
    return made


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        made = float(value)
    except OverflowError:
        return None
    return made if math.isfinite(made) else None


def _short_number(value: Any) -> float | None:
    made = _number(value)
    return None if made is None or abs(made) > float(np.finfo(np.float32).max) else made


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    try:
        made = Decimal(str(value))
    except InvalidOperation:
        return None
    if not made.is_finite() or abs(made) >= Decimal(10) ** 20:
        return None
    return made.quantize(Decimal(1).scaleb(-18))


def _moment(value: Any) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        return None
    return value.astimezone(UTC)


def _second(value: Any) -> datetime | None:
    made = _moment(value)
    return None if made is None else made.replace(microsecond=0)


def _of(kind: type) -> Callable[[Any], Any]:
    return lambda value: value if isinstance(value, kind) else None


_READ: dict[str, Callable[[Any], Any]] = {
    "Bool": _of(bool),
    "Int32": _whole,
    "Int64": _whole,
    "Float32": _short_number,
    "Float64": _number,
    "String": _of(str),
    "Uuid": _of(str),
    "TimeUuid": _of(str),
    "Bytes": _of(bytes),
    "UnixTimestamp": _second,
    "ZonedTimestamp": _moment,
    "Decimal": _decimal,
}
