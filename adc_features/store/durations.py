"""Durations and refresh schedules as people write them: 20m, 1d12h. Reads, writes: text."""

import re
from datetime import timedelta

from adc_features.errors import InputError

LONGEST = timedelta(days=36_525)
"""A longer duration is a slip."""
EXPECTED = (
    "expected PERIOD[@PHASE][+DELAY][-LAG][/incremental], such as 1d@03:00+20m (every day at 03:00"
    " UTC, online 20 minutes later), 1h, or 0 for no wait at all; units d, h, m, s, ms, us"
)
MICROSECOND = timedelta(microseconds=1)
_UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
    "us": MICROSECOND,
}
_SHOWN = ("d", "h", "m", "s", "ms", "us")
_DURATION = re.compile(r"(?:[0-9]+(?:min|ms|us|[wdhms]))+")
_PART = re.compile(r"([0-9]+)(min|ms|us|[wdhms])")


def duration_text(duration: timedelta) -> str:
    """A duration as schedules write it: "1d", "1h30m", "0"."""
    text = ""
    for unit in _SHOWN:
        count, duration = divmod(duration, _UNITS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0"


def parse_duration(text: str) -> timedelta:
    """A duration such as 0, 20m or 1d12h. Raises InputError."""
    return part_of(text, text)


def part_of(whole: str, text: str | None) -> timedelta:
    """The duration that a part of a longer text says; 0 where the part is missing. Raises
    InputError, which shows the whole.
    """
    if text is None or text.strip() == "0":
        return timedelta(0)
    if not _DURATION.fullmatch(text := text.strip()):
        raise InputError(f"{text!r} in {whole!r} is no duration; {EXPECTED}")
    try:
        return sum((int(n) * _UNITS[unit] for n, unit in _PART.findall(text)), timedelta(0))
    except (OverflowError, ValueError) as error:
        raise InputError(f"{text!r} in {whole!r} is longer than there are years") from error
