"""Aware UTC times. Reads: adc_features.clock."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adc_features.clock import instant, moment, parse_utc, utc
from adc_features.errors import InputError


def test_a_time_without_a_zone_is_refused_by_name():
    """A clock-naive time is refused, and the message names what it was and how to write it."""
    with pytest.raises(
        InputError, match=r"as_of is 2014-05-13T00:00:00 without a time zone; give an aware time"
    ):
        utc(datetime(2014, 5, 13), name="as_of")


def test_other_zones_become_utc():
    """An aware time of another zone is the same instant in UTC."""
    assert utc(datetime(2014, 5, 13, 1, tzinfo=timezone(timedelta(hours=2)))) == datetime(
        2014, 5, 12, 23, tzinfo=UTC
    )


@pytest.mark.parametrize(
    "text",
    ["2014-05-13", "2014-05-13T00:00+00:00", "2014-05-13T02:00:00+02:00", "2014-05-13T00:00:00Z"],
)
def test_dates_and_offsets_are_read(text):
    """A bare date is midnight UTC; a time needs its offset."""
    assert parse_utc(text) == datetime(2014, 5, 13, tzinfo=UTC)


@pytest.mark.parametrize("text", ["yesterday", "", "13.05.2014", "2014-05-13T00:00:00"])
def test_other_texts_are_refused(text):
    """Text that is no ISO time, or a time without offset, is refused by name."""
    with pytest.raises(InputError, match="--test-start is"):
        parse_utc(text, name="--test-start")


@given(
    st.datetimes(
        min_value=datetime(1700, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)
    )
)
def test_arrays_hold_the_same_instant(time):
    """`moment` undoes `instant`, to the microsecond."""
    assert moment(instant(time)) == time
    assert instant(time).dtype == "datetime64[us]"


def test_a_missing_time_is_refused():
    """NaT is no time."""
    with pytest.raises(InputError, match="NaT"):
        moment(np.datetime64("NaT"))


@pytest.mark.parametrize("text", ["2014-05-12", "20140512", "2014-W20-1", "2014W201"])
def test_every_form_of_a_bare_date_is_midnight(text):
    """A date means midnight UTC however ISO 8601 writes it."""
    assert parse_utc(text) == datetime(2014, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ["20140512T0", "20140512T08", "2014-05-12T08:00", "2014-05-12 08:00:00", "2014-W20-1T08"],
)
def test_every_form_of_a_time_needs_its_zone(text):
    """A time without an offset is refused however ISO 8601 writes it,
    one of ten characters included.
    """
    with pytest.raises(InputError, match=r"without a time zone|expected an ISO 8601"):
        parse_utc(text)
