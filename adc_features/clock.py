"""Aware UTC times and their integer forms. Reads: datetimes, arrays. Writes: datetime64[us] arrays.

Every time in this project is aware UTC at microsecond resolution; inside arrays it is
`datetime64[us]`, which means UTC.
"""

import re
from datetime import UTC, datetime

import numpy as np

from adc_features.errors import InputError

DATE = re.compile(r"\d{4}-\d\d-\d\d|\d{8}|\d{4}-W\d\d(-\d)?|\d{4}W\d\d\d?", re.ASCII)
"""A date of ISO 8601 without a time, in each of its forms."""


def utc(moment: datetime, *, name: str = "time") -> datetime:
    """`moment` in UTC. Raises InputError when it carries no time zone: guessing one would move
    events across cut-offs.
    """
    if moment.tzinfo is None:
        raise InputError(
            f"{name} is {moment.isoformat()} without a time zone; give an aware time, for example"
            " ...+00:00"
        )
    return moment.astimezone(UTC)


def parse_utc(text: str, *, name: str = "time") -> datetime:
    """An ISO 8601 date or time with offset; a bare date means midnight UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(
            f"{name} is {text!r}; expected an ISO 8601 date or time such as 2014-05-13 or"
            " 2014-05-13T00:00+00:00"
        ) from error
    return moment.replace(tzinfo=UTC) if DATE.fullmatch(text) else utc(moment, name=name)


def instant(moment: datetime) -> np.datetime64:
    """`moment` as the `datetime64[us]` scalar (UTC) that array columns hold."""
    return np.datetime64(utc(moment).replace(tzinfo=None), "us")


def moment(value: np.datetime64) -> datetime:
    """The aware UTC datetime of a `datetime64` scalar. Raises InputError for NaT."""
    if np.isnat(value):
        raise InputError("a time is missing (NaT); drop the rows without a time")
    whole = value.astype("datetime64[us]").item()
    if not isinstance(whole, datetime):  # numpy gives a number outside of the years 1 to 9999
        raise InputError(f"a time is {value}, outside of the years 1 to 9999; correct the row")
    return whole.replace(tzinfo=UTC)
