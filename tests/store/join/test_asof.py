"""The join engine against a join that a person can read."""

import json
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_world import examples

from adc_features.errors import ArtifactError, InputError
from adc_features.store.join.asof import AsofIndex, microseconds
from adc_features.store.join.gather import NO_ROW, Gatherer, RowPicks, RowStore, row_field
from adc_features.store.join.key_codes import KeyCodes
from adc_features.store.join.radix import radix_sorted
from adc_features.store.join.space import mapped_space

US = pa.timestamp("us", tz="UTC")
SECOND = 1_000_000
DAY = 86_400 * SECOND


def times(values):
    return pa.chunked_array([pa.array(values, pa.int64()).cast(US)])


def brute_force(features, asked, *, ttl=0, known_only=False):
    """features: (key, time, created) rows; asked: (key, time) rows. Plain Python, row by row."""
    answer = []
    for key, at in asked:
        seen = [
            (time, created, row)
            for row, (other, time, created) in enumerate(features)
            if None not in (*key, *other)
            and other == key
            and time <= at
            and (not known_only or created <= at)
        ]
        best = max(seen, default=None)
        answer.append(NO_ROW if best is None or (ttl and best[0] < at - ttl) else best[2])
    return answer


steps = st.sampled_from([1, 7, SECOND, DAY])
part = st.none() | st.integers(0, 2)


@st.composite
def joins(draw):
    width, step, scale = draw(st.integers(1, 2)), draw(steps), draw(st.sampled_from([1, 10**12]))
    key = st.tuples(*[part.map(lambda v: None if v is None else v * scale)] * width)
    moment = st.integers(-3, 12).map(lambda t: t * step)
    features = draw(st.lists(st.tuples(key, moment, moment), max_size=30))
    asked = draw(
        st.lists(
            st.tuples(key, moment.flatmap(lambda t: st.sampled_from([t, t + 1, t - 1]))),
            max_size=30,
        )
    )
    return width, features, asked, draw(st.sampled_from([0, step, 3 * step])), draw(st.booleans())


@settings(max_examples=examples(100), deadline=None)
@given(joins(), st.sampled_from(["int64", "int32", "string"]), st.booleans())
def test_the_engine_equals_the_brute_force_join(join, kind, pruned):
    """Whatever keys, ties, nulls, order, ttl and created times: the row number is the brute-force
    join's, from the index and from one that its parts make.
    """
    width, features, asked, ttl, known_only = join

    def column(rows, place, kind):
        values = [row[0][place] for row in rows]
        if kind == "string":
            return pa.chunked_array(
                [pa.array([None if v is None else str(v) for v in values], pa.string())]
            )
        narrow = [None if v is None else v % 2**31 for v in values]
        return pa.chunked_array(
            [
                pa.array(
                    narrow if kind == "int32" else values,
                    pa.int32() if kind == "int32" else pa.int64(),
                )
            ]
        )

    if kind == "int32":
        features = [
            (tuple(None if v is None else v % 2**31 for v in k), t, c) for k, t, c in features
        ]
        asked = [(tuple(None if v is None else v % 2**31 for v in k), t) for k, t in asked]
    other = "int64" if kind == "int32" else kind  # int32 keys meet int64 keys
    questions = [column(asked, p, other) for p in range(width)]
    index = AsofIndex.of_columns(
        [column(features, p, kind) for p in range(width)],
        times([f[1] for f in features]),
        created=times([f[2] for f in features]),
        asked=questions if pruned else None,
        names=["a", "b"][:width],
        known_only=known_only,
    )
    expected = brute_force(features, asked, ttl=ttl, known_only=known_only)
    facts, arrays = index.parts()
    for built in (index, AsofIndex.of_parts(json.loads(json.dumps(facts)), arrays)):
        got = built.match(
            questions,
            np.array([t for _, t in asked], np.int64),
            names=["a", "b"][:width],
            ttl=timedelta(microseconds=ttl),
        )
        assert got.tolist() == expected


def test_a_view_without_keys_matches_by_time_alone():
    """A view without an entity has one history for everybody."""
    index = AsofIndex.of_columns([], times([5, 1]))
    assert index.match([], np.array([0, 1, 4, 5, 9]), names=[]).tolist() == [NO_ROW, 1, 1, 0, 0]


def test_keys_and_times_of_more_than_64_bits_join_exactly():
    """Microseconds over millennia beside a million keys: rows that differ by one microsecond are
    told apart.
    """
    keys = np.arange(2**21)
    at = np.where(keys % 2 == 0, 0, 2**55 + keys)
    at[7], keys[7] = 2**55 + 6, 5
    index = AsofIndex.of_columns([pa.chunked_array([pa.array(keys)])], times(at))
    asked = pa.chunked_array([pa.array([5, 5, 5, 5, 4, 5])])
    got = index.match(
        [asked], np.array([2**55 + 4, 2**55 + 5, 2**55 + 6, 2**55 + 7, 0, -1]), names=["k"]
    )
    assert got.tolist() == [NO_ROW, 5, 7, 7, 4, NO_ROW]


def test_rows_that_share_a_tick_are_told_apart_by_their_times():
    """Beside a million keys over 30,000 years, a thousand rows of one key within seconds are one
    tick: each question sees the last row before it.
    """
    # so far apart that they are numbered
    keys = np.append(np.full(1_000, 2**42), np.arange(2**20) * 2**20)
    order = np.random.default_rng(0).permutation(1_000)
    at = np.append(order * 7, np.full(2**20, 2**60))
    index = AsofIndex.of_columns([pa.chunked_array([pa.array(keys)])], times(at))
    moments = np.array([0, 6, 7, 7 * 500 - 1, 7 * 2_000, 2**60, -1])
    got = index.match([pa.chunked_array([pa.array([2**42] * 7)])], moments, names=["k"])
    assert got.tolist() == [*np.argsort(order)[[0, 0, 1, 499, 999, 999]], NO_ROW]


def test_a_history_that_is_not_known_yet_is_leapt_over():
    """With a created-time cut-off the newest row that was known then is seen, far behind thousands
    that were not.
    """
    n = 5_000
    features = [((1,), t, 0 if t == 3 else 10 * n) for t in range(n)]
    index = AsofIndex.of_columns(
        [pa.chunked_array([pa.array([1] * n)])],
        times(range(n)),
        created=times([c for *_, c in features]),
        known_only=True,
    )
    asked = pa.chunked_array([pa.array([1, 1, 1])])
    at = np.array([n, 2, 20 * n])
    assert index.match([asked], at, names=["k"]).tolist() == [3, NO_ROW, n - 1]


def test_a_row_without_a_created_time_was_never_known():
    """It loses ties, is seen by a plain join, and hidden from one that asks what was known."""
    created = pa.chunked_array([pa.array([None, -5, None], pa.int64()).cast(US)])
    asked, at = pa.chunked_array([pa.array([1, 1])]), np.array([6, 8])
    for known_only, want in ((False, [1, 2]), (True, [1, 1])):
        index = AsofIndex.of_columns(
            [pa.chunked_array([pa.array([1, 1, 1])])],
            times([5, 5, 7]),
            created=created,
            known_only=known_only,
        )
        assert index.match([asked], at, names=["k"]).tolist() == want


def test_created_time_filtering_needs_created_times():
    """Asking for what was known without created times is refused, not ignored."""
    with pytest.raises(InputError, match="created_timestamp_column"):
        AsofIndex.of_columns([pa.chunked_array([pa.array([1])])], times([1]), known_only=True)


def test_key_types_that_never_match_are_refused():
    """Strings asked of integer keys say so instead of finding nothing."""
    with pytest.raises(InputError, match=r"item_id is string .* int64"):
        KeyCodes.of_features([pa.chunked_array([pa.array([1, 2])])], rows=2)[0].of(
            [pa.chunked_array([pa.array(["1"])])], names=["item_id"]
        )


@pytest.mark.parametrize(
    ("column", "want"),
    [
        (pa.array([date(1970, 1, 2), date(1969, 12, 31)]), [DAY, -DAY]),
        (pa.array([datetime(1970, 1, 2)], pa.timestamp("s")), [DAY]),
        (pa.array([-1, 1_999], pa.timestamp("ns")), [-1, 1]),
        (
            pa.array(
                [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)], pa.timestamp("ms", "Europe/Berlin")
            ),
            [SECOND],
        ),
        (
            pa.array(np.array(["1677-09-22", "2262-04-10"], "datetime64[us]")),
            [-9223286400 * SECOND, 9223200000 * SECOND],
        ),
    ],
)
def test_times_of_every_resolution_become_microseconds(column, want):
    """Days, seconds and nanoseconds, zones and none, the far past: microseconds UTC, cut and never
    rounded up.
    """
    assert microseconds(column).tolist() == want


@pytest.mark.parametrize(
    "column", [pa.array([1.5]), pa.array(["2014-01-01"]), pa.array([None, 1], US)]
)
def test_columns_that_are_no_times_are_refused(column):
    """Numbers, text and nulls are not taken for times."""
    with pytest.raises(InputError):
        microseconds(column)


def gathered(column, rows):
    gather = Gatherer(column)
    return gather(RowPicks(np.array(rows, np.int64)))


LISTS = st.lists(st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3), max_size=8)
PAIRS = st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), max_size=8)


@given(LISTS | PAIRS, st.integers(0, 8), st.data())
def test_gathering_equals_picking(lists, cut, data):
    """Lists of one length or many, empty, null or with nulls inside come back as they were, null
    where there is no row.
    """
    column = pa.chunked_array(
        [pa.array(lists[:cut], pa.list_(pa.int32())), pa.array(lists[cut:], pa.list_(pa.int32()))]
    )
    rows = data.draw(st.lists(st.integers(NO_ROW, len(lists) - 1), max_size=12))
    got = gathered(column, rows)
    assert got.type == column.type
    assert got.to_pylist() == [None if r < 0 else lists[r] for r in rows]
    got.validate(full=True)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1.5, float("nan"), -0.0]),
        pa.array([1, 2, 3], pa.int8()),
        pa.array([True, None, False]),
        pa.array(["a", None, ""]),
        pa.array([1, 2, 3], US),
        pa.array([1, 2, 3], pa.date32()),
        pa.array([None, 2, 3], pa.float32()),
        pa.array([{"a": 1}, None, {"a": 3}]),
    ],
)
@pytest.mark.parametrize("rows", [[], [2, 0, 0, 1], [NO_ROW, 2, NO_ROW], [NO_ROW]])
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_every_type_is_gathered(values, rows, cut):
    """Numbers, times, truth values, texts and structs, in one piece, several or a slice of one,
    equal picking them one by one.
    """
    column = pa.chunked_array([values.slice(0, cut), values.slice(cut)])
    got = gathered(column, rows)
    got.validate(full=True)
    want = pa.array([None if r < 0 else values[r].as_py() for r in rows], values.type)
    assert got.equals(want) or str(got) == str(want)  # NaN equals nothing


def test_rows_side_by_side_equal_columns():
    """Numbers, times and lists kept row by row come back as they were; a column that stops to fit
    is let go.
    """
    columns = {
        "n": pa.array([1.5, float("inf"), 3.0]),
        "t": pa.array([1, 2, 3], US),
        "l": pa.array([[1, 2], [3, 4], [5, 6]]),
        "x": pa.array([1, 2, 3]),
    }
    store = RowStore(6, {name: row_field(column) for name, column in columns.items()})
    for start in (0, 3):
        for name in list(store.fields):
            store.fill(
                name, start, pa.array([1, None, 3]) if name == "x" and start else columns[name]
            )
    got = store.gathered(RowPicks(np.array([5, NO_ROW, 1])))
    assert {name: column.to_pylist() for name, column in got.items()} == {
        n: [columns[n][2].as_py(), None, columns[n][1].as_py()] for n in "ntl"
    }
    assert [column.type for column in got.values()] == [columns[n].type for n in "ntl"]
    assert all(column.validate(full=True) is None for column in got.values())


def test_a_full_disk_is_named(tmp_path):
    """What cannot be mapped for want of room says where, and leaves no file."""
    with pytest.raises(ArtifactError, match=r"no room for \d+ bytes in .*spill_directory"):
        mapped_space(tmp_path)(2**50)
    assert not list(tmp_path.iterdir())


def test_lists_of_one_length_keep_their_type():
    """The matrix path returns list, not large_list or fixed-size."""
    got = gathered(
        pa.chunked_array([pa.array([[1, 2], [3, 4]], pa.list_(pa.int32()))]), [1, NO_ROW, 0]
    )
    assert got.type == pa.list_(pa.int32())
    assert got.to_pylist() == [[3, 4], None, [1, 2]]


@pytest.mark.parametrize(
    "spread", [1, 1 << 10, 1 << 40], ids=["one value", "few values", "many values"]
)
@pytest.mark.parametrize("count", [0, 1, 1000, 100_000, 1 << 17], ids=str)
def test_digits_order_numbers_as_comparing_does(count, spread):
    """Short or long, with the lowest bits counting up as row numbers do:
    the same order as numpy's sort.
    """
    rng = np.random.default_rng(count)
    high = rng.integers(0, spread, count)
    numbers = (high << 20) | np.arange(count)
    assert (radix_sorted(numbers.copy(), below=20) == np.sort(numbers)).all()


def test_numbers_of_one_bit_pattern_in_their_low_digits_are_ordered():
    """Keys far above their neighbours, nearly all in one part: the order is full."""
    numbers = np.append(np.full(1 << 16, 3 << 30), [1 << 61, 5, 1 << 40])
    numbers += np.append(np.random.default_rng(0).permutation(1 << 16) << 10, [0, 0, 0])
    assert (radix_sorted(numbers.copy(), below=0) == np.sort(numbers)).all()


@pytest.mark.parametrize("place", [0, 65_535, 65_536, 99_998])
def test_numbers_in_order_are_left_where_they_are(place):
    """What is sorted comes back as it is; one pair out of order, wherever it stands, is found."""
    numbers = np.arange(100_000) << 10
    assert radix_sorted(numbers, below=10) is numbers
    swapped = numbers.copy()
    swapped[[place, place + 1]] = swapped[[place + 1, place]]
    assert (radix_sorted(swapped, below=10) == numbers).all()
