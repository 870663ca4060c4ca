"""Semantic IDs as values, and as of a time. Reads: adc_features.codes.sids."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.codes.sids import SidTable, SidTimeline, changed_rows, find_rows, list_matrix
from adc_features.errors import GenerationMismatch, InputError

DAY_0 = datetime(2024, 1, 1, tzinfo=UTC)


def sids(ids, codes, *, generation="g1", as_of=DAY_0):
    """A table whose weights and reliability follow from its codes (K = 4): checkable by eye."""
    sid = np.array(codes, np.int32).reshape(len(ids), -1)
    n = len(ids)
    return SidTable(
        item_ids=np.array(ids),
        sid=sid,
        sid_weight=np.where(sid < 0, 0, sid + 1).astype(np.float32),
        reliability=np.where(sid[:, 0] < 0, 0, (sid[:, 0] + 1) / 4).astype(np.float32),
        alignment=np.zeros(n, np.float32),
        is_cold=np.zeros(n, bool),
        collision_count=np.ones(n, np.int32),
        found=np.ones(n, bool),
        generation=generation,
        codebook_size=4,
        as_of=as_of,
    )


TABLE = sids(["b", "a"], [[0, 1], [3, -1]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sid": np.array([[0, 4], [3, -1]], np.int32)}, r"range over -1..4; expected -1..3"),
        ({"sid": np.array([[0, -2], [3, -1]], np.int32)}, r"range over -2..3"),
        ({"sid": np.array([[0, 1], [3, -1]])}, "expected int32"),
        ({"sid": np.array([0, 1], np.int32)}, r"expected int32\[2, -1\]"),
        (
            {"sid_weight": np.array([[1, 2], [4, 1]], np.float32)},
            "missing code .-1. carries a weight",
        ),
        ({"sid_weight": np.array([[1, -2], [4, 0]], np.float32)}, "every sid_weight >= 0"),
        ({"sid_weight": np.array([[1, np.nan], [4, 0]], np.float32)}, "not finite"),
        ({"reliability": np.array([0.5, 1.5], np.float32)}, "0 <= x <= 1"),
        ({"reliability": np.array([0.5, np.nan], np.float32)}, "0 <= x <= 1"),
        ({"found": np.array([True, False])}, "not found carries codes"),
        ({"is_cold": np.zeros(3, bool)}, r"is_cold is bool\[3\]; expected bool\[2\]"),
        ({"as_of": datetime(2024, 1, 1)}, "without a time zone"),
    ],
)
def test_a_broken_table_is_refused(changes, words):
    """Codes, weights and shapes are checked once, on construction."""
    with pytest.raises(InputError, match=words):
        replace(TABLE, **changes)


def test_lookup_keeps_order_and_repeats_and_shows_the_unknown():
    """An unknown item is reported absent, not as zeros: found False, codes -1, weights 0, cold."""
    got = TABLE.lookup(np.array(["a", "nobody", "b", "a"]))
    assert got.item_ids.tolist() == ["a", "nobody", "b", "a"]
    assert got.sid.tolist() == [[3, -1], [-1, -1], [0, 1], [3, -1]]
    assert got.sid_weight.tolist() == [[4, 0], [0, 0], [1, 2], [4, 0]]
    assert got.found.tolist() == [True, False, True, True]
    assert got.is_cold.tolist() == [False, True, False, False]


def test_batch_lookup_equals_single_lookups():
    """Asking for many is asking for each."""
    wanted = np.array(["b", "zz", "a"])
    batch = TABLE.lookup(wanted).to_arrow().to_pylist()
    assert batch == [
        row for one in wanted for row in TABLE.lookup(np.array([one])).to_arrow().to_pylist()
    ]


def test_an_empty_lookup_is_an_empty_table():
    """No ids, no rows, same width."""
    got = TABLE.lookup(np.array([]))
    assert len(got) == 0
    assert got.length == 2


def test_ids_of_another_kind_are_refused():
    """Integer ids against text ids would silently match nothing; they are refused."""
    with pytest.raises(InputError, match="asked for ids of type int64"):
        TABLE.lookup(np.array([1, 2]))
    with pytest.raises(InputError, match="convert one to the other"):
        SidTimeline([TABLE], [DAY_0]).gather(
            np.array([1]), np.array(["2024-01-02"], "datetime64[us]")
        )


@pytest.mark.parametrize(
    "table",
    [
        TABLE,
        sids([5, 3], [[0, 1], [3, -1]]),
        TABLE.lookup(np.array(["b", "nobody"])),
        TABLE.lookup(np.array([], str)),
    ],
)
def test_arrow_gives_the_same_table_back(table):
    """from_arrow undoes to_arrow, also for rows that were not found and for no rows."""
    arrow = table.to_arrow()
    assert arrow.schema.field("sid").type == pa.list_(pa.int32())
    again = SidTable.from_arrow(arrow)
    assert again.to_arrow().equals(arrow, check_metadata=True)
    assert again.as_of == table.as_of


def test_a_stranger_s_table_is_refused():
    """A table without our metadata is refused by what it lacks."""
    with pytest.raises(InputError, match=r"lacks .*generation"):
        SidTable.from_arrow(pa.table({"item_id": ["a"]}))


def test_lists_of_other_lengths_are_refused():
    """Two rows of 1 and 3 codes are not two rows of 2, though the values add up."""
    assert list_matrix(pa.chunked_array([[[1, 2]], [[3, 4]]]), 2, np.int32).tolist() == [
        [1, 2],
        [3, 4],
    ]
    for broken in ([[1], [2, 3, 4]], [[1, 2], None], [[1, None]]):
        with pytest.raises(InputError, match="expected 2 values in every row"):
            list_matrix(pa.chunked_array([pa.array(broken, pa.list_(pa.int32()))]), 2, np.int32)


@given(st.lists(st.integers(-5, 5), unique=True), st.lists(st.integers(-9, 9)))
def test_find_rows_equals_a_dictionary(haystack, wanted):
    """Rows are those that a dictionary would give."""
    rows, known = find_rows(np.array(haystack, np.int64), np.array(wanted, np.int64))
    place = {h: i for i, h in enumerate(haystack)}
    assert known.tolist() == [w in place for w in wanted]
    assert [r for r, k in zip(rows.tolist(), known, strict=True) if k] == [
        place[w] for w in wanted if w in place
    ]


# ---- through time


@st.composite
def timelines(draw):
    """A few snapshots of few items, with gaps in time,
    in any item order; and requests around every border.
    """
    days = draw(st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True).map(sorted))
    snapshots = []
    for _ in days:
        ids = draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
        snapshots.append(
            sids(ids, [[draw(st.integers(-1, 3)), draw(st.integers(-1, 3))] for _ in ids])
        )
    requests = draw(
        st.lists(
            st.tuples(st.sampled_from("abcdx"), st.integers(-1, 14), st.sampled_from([-1, 0, 1])),
            max_size=12,
        )
    )
    return days, snapshots, requests


@given(timelines())
@settings(max_examples=150, deadline=None)
def test_gather_equals_a_brute_force_lookup(timeline):
    """Each row gets its item's codes of the last snapshot served at or before its time: nothing
    newer, to the microsecond.
    """
    days, snapshots, requests = timeline
    servable = [DAY_0 + timedelta(days=d) for d in days]
    times = [DAY_0 + timedelta(days=d, microseconds=u) for _, d, u in requests]
    ids = np.array([i for i, _, _ in requests], "U1")
    sid, weight, reliability = SidTimeline(snapshots, servable).gather(
        ids, np.array([t.replace(tzinfo=None) for t in times], "datetime64[us]")
    )
    assert sid.shape == weight.shape == (len(requests), 2)
    for row, (item, time) in enumerate(zip(ids, times, strict=True)):
        served = [s for s, t in zip(snapshots, servable, strict=True) if t <= time]
        place = (
            served[-1].item_ids.tolist().index(item)
            if served and item in served[-1].item_ids
            else None
        )
        expected = [-1, -1] if place is None else served[-1].sid[place].tolist()
        assert sid[row].tolist() == expected
        assert weight[row].tolist() == [c + 1 for c in expected]
        assert reliability[row] == (expected[0] + 1) / 4


def test_a_timeline_refuses_what_it_cannot_order():
    """No snapshots, equal times, several vocabularies, rows without a time: each is refused."""
    with pytest.raises(InputError, match="publish at least one"):
        SidTimeline([], [])
    with pytest.raises(InputError, match="strictly increasing"):
        SidTimeline([TABLE, TABLE], [DAY_0, DAY_0])
    with pytest.raises(InputError, match="without a time zone"):
        SidTimeline([TABLE], [datetime(2024, 1, 1)])
    with pytest.raises(GenerationMismatch, match=r"'g1'.*'g2'"):
        SidTimeline(
            [TABLE, sids(["a"], [[0, 1]], generation="g2")], [DAY_0, DAY_0 + timedelta(days=1)]
        )
    with pytest.raises(InputError, match="1 rows have no time"):
        SidTimeline([TABLE], [DAY_0]).gather(np.array(["a"]), np.array(["NaT"], "datetime64[us]"))


@given(
    st.lists(st.integers(0, 9), unique=True, min_size=1),
    st.lists(st.integers(0, 9), unique=True, min_size=1),
    st.randoms(use_true_random=False),
)
def test_changed_rows_over_the_snapshot_before_give_the_snapshot_again(old, new, chance):
    """Oracle: an item is read from the difference where it stands there, else from before; a
    removed item is not found.
    """
    before, after = (
        sids(
            [f"i{k}" for k in ids],
            [[chance.randrange(3), chance.randrange(3)] for _ in ids],
            as_of=day,
        )
        for ids, day in ((old, DAY_0), (new, DAY_0 + timedelta(days=1)))
    )
    rows = changed_rows(before, after)
    for item in after.item_ids:
        one = np.array([item])
        source = rows if item in rows.item_ids else before
        for name in ("sid", "sid_weight", "reliability", "is_cold", "collision_count", "found"):
            np.testing.assert_array_equal(
                getattr(source.lookup(one), name), getattr(after.lookup(one), name)
            )
    gone = np.setdiff1d(before.item_ids, after.item_ids)
    assert not rows.lookup(gone).found.any()
    assert set(gone) <= set(rows.item_ids.tolist())
    same = [
        i
        for i in set(old) & set(new)
        if np.array_equal(
            before.lookup(np.array([f"i{i}"])).sid, after.lookup(np.array([f"i{i}"])).sid
        )
    ]
    assert not set(rows.item_ids.tolist()) & {f"i{i}" for i in same}


def test_second_codes_are_checked_and_travel_with_the_first():
    """A stranger has none; they return from Arrow as they were; what cannot be is refused."""
    second = np.where(TABLE.sid >= 0, (TABLE.sid + 1) % TABLE.codebook_size, -1).astype(np.int32)
    chance = np.where(second >= 0, 0.25, 0).astype(np.float32)
    told = replace(TABLE, sid_second=second, sid_second_weight=chance)
    looked_up = SidTable.from_arrow(told.to_arrow()).lookup(np.array([TABLE.item_ids[0], "nobody"]))
    assert looked_up.sid_second.tolist() == [second[0].tolist(), [-1] * TABLE.length]
    assert looked_up.sid_second_weight.tolist() == [chance[0].tolist(), [0] * TABLE.length]
    assert TABLE.lookup(TABLE.item_ids).sid_second is None
    for wrong, said in (
        ({"sid_second_weight": None}, "give both or neither"),
        ({"sid_second": second.astype(np.int64)}, "expected int32 and float32"),
        ({"sid_second": np.full_like(second, TABLE.codebook_size)}, "second codes range over"),
        ({"sid_second": TABLE.sid}, "or is the first again"),
        ({"sid_second_weight": chance + 1}, r"outside \[0, 1\]"),
        ({"sid_second": np.full_like(second, -1)}, "stands where there is no second code"),
    ):
        with pytest.raises(InputError, match=said):
            replace(told, **wrong)
