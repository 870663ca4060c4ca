"""Hundreds of rows as JSON, written column by column: an object for each row would cost as much as
a third of their scores. Reads: columns. Writes: JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic_core import to_json


def with_rows(
    answer: Mapping[str, Any], name: str, columns: Mapping[str, Sequence[Any] | np.ndarray]
) -> bytes:
    """The JSON of an object and, as its last field, of rows: the bytes that `to_json` gives for
    them.

    Parameters
    ----------
    answer : mapping
        The other fields, at least one.
    name : str
        Of the rows' field.
    columns : mapping of str to sequence
        Values of each field of the rows, as JSON has them; or an array of numbers or truth values.
    """
    fields = b",".join(to_json(column).replace(b"%", b"%%") + b":%b" for column in columns)
    rows = zip(*map(_written, columns.values()), strict=True)
    row = b"{" + fields + b"}"
    listed = b",".join([row % values for values in rows])
    return b"%b,%b:[%b]}" % (to_json(answer)[:-1], to_json(name), listed)


def _written(values: Sequence[Any] | np.ndarray) -> list[bytes]:
    """The JSON of each value."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
        kinds = set(map(type, values[:1]))
    else:
        kinds = set(map(type, values))
    if kinds <= {int, float, bool, type(None)}:  # no comma stands within one
        return to_json(values)[1:-1].split(b",") if values else []
    if kinds == {str} and b"\\" not in (written := to_json(values)):  # nor a quote within a text
        return [b'"%b"' % text for text in written[2:-2].split(b'","')]
    return [to_json(value) for value in values]
