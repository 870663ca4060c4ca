"""Joins under the freshness that is served, against a toy online store that is refreshed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as quickly
from hypothesis import strategies as st
from store_world import examples

from adc_features.errors import InputError
from adc_features.store.durations import duration_text, parse_duration
from adc_features.store.join.engine import PreparedView, ViewSource, joined_columns
from adc_features.store.refresh import NEVER, NOT_YET, Refresh, RefreshSchedule, parse_refreshes

DAY = datetime(2024, 5, 1, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def at(text: str) -> datetime:
    """A time of the day, HH:MM[:SS]."""
    return DAY.combine(DAY, datetime.strptime(f"{text}:00"[:8], "%H:%M:%S").time(), UTC)


def microseconds(*times: datetime) -> np.ndarray:
    return np.array([(t - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
                     for t in times])  # fmt: skip


def view(directory: Path, rows: list[dict], *, ttl: timedelta | None, created=False) -> ViewSource:
    """Rows {user, event, count, created} in a file of their own."""
    kinds = {"event": pa.timestamp("us", "UTC"), "created": pa.timestamp("us", "UTC")}
    table = pa.table(
        {
            name: pa.array([row.get(name) for row in rows], kinds.get(name, kind))
            for name, kind in (
                ("user", pa.string()), ("event", None), ("created", None), ("count", pa.int64()),
            )
        }
    )  # fmt: skip
    path = directory / "rows.parquet"
    pq.write_table(table, path)
    return ViewSource(
        "activity",
        str(path),
        {"user": "user"},
        {"count": "count"},
        {},
        "event",
        created="created" if created else None,
        ttl=ttl,
    )


def read(source: ViewSource, asked: list[tuple[str, datetime]], schedule) -> list[int | None]:
    """What requests (user, time) read under a schedule."""
    frame = pa.table(
        {
            "user": pa.array([user for user, _ in asked], pa.string()),
            "time": pa.array([time for _, time in asked], pa.timestamp("us", "UTC")),
        }
    )
    prepared = PreparedView(source, refresh=schedule)
    return joined_columns(frame, [prepared], time="time").features["count"].to_pylist()


EXAMPLE = [
    {"user": "u1", "event": at("09:10"), "count": 1},
    {"user": "u1", "event": at("10:40"), "count": 2},
    {"user": "u1", "event": at("11:05"), "count": 3},
    {"user": "u1", "event": at("11:50"), "count": 4},
]


def test_the_worked_example(tmp_path):
    """Hourly cuts that are read 20 minutes later, ttl of 2 hours: four requests, by hand."""
    source = view(tmp_path, EXAMPLE, ttl=2 * HOUR)
    asked = [("u1", at(t)) for t in ("10:15", "10:20", "11:10", "12:19:59")]
    hourly = RefreshSchedule.parse("1h+20m")
    cuts = hourly.cuts(microseconds(*(t for _, t in asked)))
    assert cuts.tolist() == microseconds(*map(at, ("09:00", "10:00", "10:00", "11:00"))).tolist()
    assert read(source, asked, hourly) == [None, 1, 1, 2]
    assert read(source, asked, None) == [1, 1, 3, 4]
    assert read(source, [("u1", at("11:10:01"))], hourly) == [None]  # the ttl is over
    pairs = tuple(Refresh(DAY + n * HOUR, DAY + n * HOUR + 20 * MINUTE) for n in range(24))
    assert read(source, asked, RefreshSchedule(refreshes=pairs)) == [None, 1, 1, 2]


DURATIONS = st.integers(0, 10**13).map(lambda n: timedelta(microseconds=n))
SCHEDULES = st.one_of(
    st.builds(RefreshSchedule, delay=DURATIONS, lag=DURATIONS),
    st.builds(
        RefreshSchedule,
        period=st.integers(1, 10**13).map(lambda n: timedelta(microseconds=n)),
        phase=DURATIONS,
        delay=DURATIONS,
        lag=DURATIONS,
        mode=st.sampled_from(["full", "incremental"]),
    ),
)


@quickly(max_examples=examples(200), deadline=None)
@given(SCHEDULES, DURATIONS)
def test_a_schedule_is_read_back_from_its_text(schedule, duration):
    """parse(str(schedule)) is the schedule, whatever its parts."""
    assert RefreshSchedule.parse(str(schedule)) == schedule
    assert parse_duration(duration_text(duration)) == duration


def test_texts_of_schedules():
    """Phase as time of day or duration, delay, lag and mode; minutes as m or min."""
    nightly = RefreshSchedule.parse("1d@03:00+20m-1h/incremental")
    assert nightly == RefreshSchedule(timedelta(days=1), 3 * HOUR, 20 * MINUTE, HOUR, "incremental")
    assert RefreshSchedule.parse("7d@4d3h+20min").phase == timedelta(days=4, hours=3)
    assert RefreshSchedule.parse(" 0 ").is_fresh
    assert str(RefreshSchedule.parse("90m")) == "1h30m"
    assert parse_refreshes(["a=1d", "b = 0+200ms", "c=log"]) == {
        "a": "1d", "b": "0+200ms", "c": "log",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "1", "d", "1d@", "1d@25:00", "1x", "-1d", "1d+20m@03:00", "0@03:00", "0/incremental",
     "1d/often", "1.5d", "99999999999999999999d", "200y", "1d 3h"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(text):
    """Unknown units, missing parts, a phase or increments without a period: in words."""
    with pytest.raises(InputError):
        RefreshSchedule.parse(text)
    with pytest.raises(InputError, match=r"view 'v'|two|not VIEW="):
        parse_refreshes([f"v={text}"])


def test_a_view_has_one_schedule():
    """An option without a view and a view that is named twice are refused."""
    with pytest.raises(InputError, match="two refresh schedules"):
        parse_refreshes(["v=1d", "v=1h"])
    with pytest.raises(InputError, match="is not VIEW=SCHEDULE"):
        parse_refreshes(["=1d"])


def test_real_refreshes_are_checked():
    """Naive times, a refresh that was read before its cut, cuts out of order: refused."""
    for pairs, words in (
        ([(DAY.replace(tzinfo=None), DAY)], "without a zone"),
        ([(DAY, DAY - HOUR)], "before its cut"),
        ([(DAY, DAY), (DAY, DAY)], "must rise"),
    ):
        with pytest.raises(InputError, match=words):
            RefreshSchedule(refreshes=tuple(Refresh(*p) for p in pairs))
    overtaken = (Refresh(DAY, DAY + 3 * HOUR), Refresh(DAY + HOUR, DAY + 2 * HOUR))
    with pytest.raises(InputError, match="overtaken"):
        RefreshSchedule(refreshes=overtaken, mode="incremental")
    assert RefreshSchedule(refreshes=overtaken).cuts(
        microseconds(*(DAY + n * HOUR for n in (1, 2, 4)))
    ).tolist() == [NOT_YET, *microseconds(DAY + HOUR, DAY + HOUR)]


# ---- against a toy store

TICKS = st.integers(0, 40)
USERS = st.sampled_from(["a", "b"])
TTLS = st.sampled_from([None, timedelta(0), 5 * MINUTE, 17 * MINUTE])


@st.composite
def timetables(draw) -> RefreshSchedule:
    """Schedules on the minute, so that cuts, rows and requests meet."""
    minutes = st.integers(0, 9).map(lambda n: n * MINUTE)
    lag, mode = draw(minutes), draw(st.sampled_from(["full", "incremental"]))
    kind = draw(st.sampled_from(["period", "stream", "real"]))
    if kind == "stream":
        return RefreshSchedule(delay=draw(minutes), lag=lag)
    if kind == "period":
        period = draw(st.integers(1, 12)) * MINUTE
        return RefreshSchedule(period, draw(minutes), draw(minutes), lag, mode)
    cuts = sorted(draw(st.sets(TICKS, min_size=1, max_size=6)))
    seen = [cut + draw(st.integers(0, 9)) for cut in cuts]
    if mode == "incremental":
        seen = np.maximum.accumulate(seen).tolist()
    pairs = [Refresh(DAY + c * MINUTE, DAY + v * MINUTE) for c, v in zip(cuts, seen, strict=True)]
    return RefreshSchedule(lag=lag, mode=mode, refreshes=tuple(pairs))


def toy_store(rows: list[dict], schedule: RefreshSchedule, user: str, time: datetime) -> int | None:
    """The replay: the refreshes one after another, each loading what it finds; then a read."""
    lag = schedule.lag
    if schedule.refreshes:
        refreshes = [(r.cut, r.visible) for r in schedule.refreshes]
    elif schedule.period:
        first = datetime(1970, 1, 1, tzinfo=UTC) + schedule.phase
        start = (DAY - first) // schedule.period - 100
        cuts = [first + (start + n) * schedule.period for n in range(300)]
        refreshes = [(cut, cut + schedule.delay) for cut in cuts]
    else:
        ready = [r for r in rows if r["event"] + lag + schedule.delay <= time]
        return newest(ready, user)
    online, before = {}, None
    for cut, visible in refreshes:
        if visible > time:
            before = cut
            continue
        for n, row in enumerate(rows):
            if schedule.mode == "full":
                loads = row["event"] + lag <= cut
            else:
                landed = row["created"] or row["event"]
                fresh = before is None or row["event"] > before
                loads = fresh and row["event"] <= cut and landed <= cut
            if loads:
                online[n] = row
        before = cut
    return newest(list(online.values()), user)


def newest(rows: list[dict], user: str) -> dict | None:
    """The last row of a user by event time, created time and position."""
    mine = [r for r in rows if r["user"] == user]
    first = datetime(1, 1, 1, tzinfo=UTC)
    order = [(r["event"], r["created"] or first, n) for n, r in enumerate(mine)]
    return mine[max(order)[2]] if mine else None


@quickly(max_examples=examples(150), deadline=None)
@given(
    made=st.lists(st.tuples(USERS, TICKS, st.integers(-1, 9)), min_size=1, max_size=12),
    asked=st.lists(st.tuples(USERS, st.integers(0, 60)), min_size=1, max_size=12),
    schedule=timetables(),
    ttl=TTLS,
)
def test_the_join_equals_a_replay(tmp_path_factory, made, asked, schedule, ttl):
    """Schedules, streams and real refreshes, full and incremental, lags, late rows, ties, ttl:
    what a request reads is what the toy store holds then."""
    rows = [
        {
            "user": user,
            "event": DAY + tick * MINUTE,
            "created": None if late < 0 else DAY + (tick + late) * MINUTE,
            "count": n,
        }
        for n, (user, tick, late) in enumerate(made)
    ]
    source = view(tmp_path_factory.mktemp("toy"), rows, ttl=ttl, created=True)
    requests = [(user, DAY + tick * MINUTE) for user, tick in asked]
    expected = []
    for user, time in requests:
        found = toy_store(rows, schedule, user, time)
        if found is not None and ttl and found["event"] < time - ttl:
            found = None
        expected.append(None if found is None else found["count"])
    assert read(source, requests, schedule) == expected


def test_a_fresh_schedule_is_the_plain_join(tmp_path):
    """`0` gives bit for bit what no schedule gives."""
    rows = [
        {"user": f"u{n % 7}", "event": DAY + n * MINUTE, "count": n, "created": DAY}
        for n in range(500)
    ]
    source = view(tmp_path, rows, ttl=30 * MINUTE, created=True)
    asked = [(f"u{n % 9}", DAY + n * 13 * timedelta(seconds=7)) for n in range(400)]
    assert read(source, asked, RefreshSchedule.parse("0")) == read(source, asked, None)


def test_a_ttl_of_centuries_is_as_long_under_a_schedule(tmp_path):
    """A row that is 150 years old is read under a ttl of 200 years, with a schedule and without."""
    old = DAY.replace(year=DAY.year - 150)
    source = view(
        tmp_path, [{"user": "u", "event": old, "count": 1}], ttl=timedelta(days=365 * 200)
    )
    for schedule in (None, RefreshSchedule.parse("1d")):
        assert read(source, [("u", DAY)], schedule) == [1]


def test_incremental_refreshes_lose_what_is_created_late(tmp_path):
    """Exactly the rows that were created after the first cut behind their event are never read."""
    rows = [
        {"user": "u", "event": at("09:10"), "created": at("10:00"), "count": 1},
        {"user": "u", "event": at("09:20"), "created": at("10:01"), "count": 2},  # late
        {"user": "u", "event": at("11:20"), "created": at("11:30"), "count": 3},
    ]
    source = view(tmp_path, rows, ttl=None, created=True)
    asked = [("u", at(t)) for t in ("09:59", "10:00", "11:59", "12:00")]
    assert read(source, asked, RefreshSchedule.parse("1h")) == [None, 2, 2, 3]
    assert read(source, asked, RefreshSchedule.parse("1h/incremental")) == [None, 1, 1, 3]


def test_created_times_filter_by_one_rule(tmp_path):
    """A schedule beside created-time filtering is refused."""
    source = view(tmp_path, EXAMPLE, ttl=None, created=True)
    with pytest.raises(InputError, match="choose one"):
        PreparedView(source, known_only=True, refresh=RefreshSchedule.parse("1h"))


@quickly(max_examples=examples(150), deadline=None)
@given(schedule=timetables(), rows=st.lists(TICKS, min_size=1, max_size=5), request=TICKS)
def test_rows_are_seen_from_the_refresh_that_takes_them(schedule, rows, request):
    """A request reads a row exactly from `seen_from` on."""
    when = microseconds(*(DAY + tick * MINUTE for tick in rows))
    time = microseconds(DAY + request * MINUTE)
    reads = (when <= schedule.reads(time)) & schedule.loaded(when)
    assert (reads == (schedule.seen_from(when) <= time)).all()
    assert (schedule.seen_from(when)[~schedule.loaded(when)] == NEVER).all()


def test_what_real_refreshes_are_as_a_rule():
    """Period, phase and delay of a log are its medians, and give the mean age of what is read."""
    pairs = [Refresh(DAY + n * HOUR + 5 * MINUTE, DAY + n * HOUR + 25 * MINUTE) for n in range(5)]
    found = RefreshSchedule(refreshes=tuple(pairs))
    assert str(found.regular) == "1h@00:05+20m"
    assert found.mean_age == 50 * MINUTE
    assert "5 refreshes" in str(found)
    assert str(RefreshSchedule.stale(timedelta(days=1), like=found)) == "1d@00:05"
