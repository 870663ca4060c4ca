"""What Spark's workers do, without Spark: rows in pieces meet by their keys, are matched, and come
back in order.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adc_features.errors import InputError
from adc_features.store.spark.matching import (
    MatchedView,
    ViewShape,
    joined_pieces,
    newest_rows,
    ordered_tables,
    view_pieces,
    with_features,
)
from adc_features.store.spark.pieces import PIECE_ROWS, Piece, as_batch, pieces_of
from adc_features.store.spark.routes import POSITION, ROW, ByKeys, ByOrder, key_hashes
from adc_features.store.spark.types import spark_schema

START = datetime(2014, 1, 1, tzinfo=UTC)
UTC_US = pa.timestamp("us", "UTC")


def times(seconds) -> pa.Array:
    return pa.array([None if s is None else START + timedelta(seconds=s) for s in seconds], UTC_US)


SHAPE = ViewShape(
    of="view clicks",
    keys={"user": ("u", pa.int64()), "item": ("i", pa.string())},
    features={"count": ("n", pa.int32()), "sid": ("s", pa.list_(pa.int32()))},
    time="at",
    created="born",
    ttl=timedelta(seconds=3),
)


def source(rows) -> pa.Table:
    """rows: (user, item, at, born, n)."""
    user, item, at, born, n = zip(*rows, strict=True) if rows else ((),) * 5
    return pa.table(
        {
            "u": pa.array(user, pa.int32()),
            "i": pa.array(item, pa.large_string()),
            "at": times(at),
            "born": times(born),
            "n": pa.array(n, pa.int64()),
            "s": pa.array([None if v is None else [v, v] for v in n], pa.list_(pa.int64())),
            POSITION: pa.array(range(len(rows)), pa.int64()),
        }
    )


def entity(questions) -> pa.Table:
    """questions: (user, item, at)."""
    user, item, at = zip(*questions, strict=True) if questions else ((),) * 3
    return pa.table(
        {
            "user": pa.array(user, pa.int16()),
            "item": pa.array(item, pa.string()),
            "event_timestamp": times(at),
            ROW: pa.array(range(len(questions)), pa.int64()),
        }
    )


def moved(pieces) -> list[Piece]:
    """Pieces as Spark hands them on, by place."""
    return sorted(pieces_of(map(as_batch, pieces)), key=lambda p: (p.place, -p.side))


def joined_apart(rows: pa.Table, asked: pa.Table, *, places: int, step: int) -> pa.Table:
    """The join as Spark's steps run it: tasks of `step` rows, then one for each place."""
    order = ByOrder(max(len(asked), 1), places)
    route = ByKeys(SHAPE.compared, places).knowing(asked)
    sent = [p for s in range(0, len(asked), step) for p in route.of_entity(asked.slice(s, step))]
    for start in range(0, len(rows), step):
        sent += view_pieces([rows.slice(start, step)], SHAPE, route, side=1)
    back: list[Piece] = []
    for place in range(places):
        here = [piece for piece in moved(sent) if piece.place == place]
        back += joined_pieces(here, [SHAPE], time="event_timestamp", onward=order)
    names = [*asked.column_names, *SHAPE.features]
    pieces = sorted(moved(back), key=lambda p: (p.place, p.first))
    tables = [table for _, table in ordered_tables(pieces, names)]
    return pa.concat_tables(tables) if tables else asked.slice(0, 0)


users, items = st.none() | st.sampled_from([1, 11, 12]), st.none() | st.sampled_from(["2", "12"])
moment = st.integers(0, 6)


@given(
    rows=st.lists(
        st.tuples(users, items, st.none() | moment, st.none() | moment, st.none() | moment),
        max_size=25,
    ),
    questions=st.lists(st.tuples(users, items, moment), min_size=1, max_size=25),
    places=st.integers(1, 4),
    step=st.integers(1, 9),
)
def test_rows_that_moved_see_what_they_see_in_one_place(rows, questions, places, step):
    """However rows are spread over tasks and places (ties, null keys, hot keys, keys that would
    collide as texts), each sees what it sees when everything is in one table.
    """
    table, asked = source(rows), entity(questions)
    whole = with_features(asked, [MatchedView(SHAPE, [SHAPE.rows(table)])], time="event_timestamp")
    assert joined_apart(table, asked, places=places, step=step).equals(whole)


def by_hand(rows, user, item, at):
    """The newest event within the ttl, then the last created, then the last by position."""
    if user is None or item is None:
        return None
    seen = [
        (t, -1 if born is None else born, place)
        for place, (u, i, t, born, _) in enumerate(rows)
        if (u, i) == (user, item) and t is not None and t <= at
    ]
    if not seen or max(seen)[0] < at - 3:
        return None
    return rows[max(seen)[2]][4]


@given(
    rows=st.lists(
        st.tuples(users, items, moment, st.none() | moment, st.integers(0, 99)), max_size=25
    ),
    questions=st.lists(st.tuples(users, items, st.integers(0, 9)), min_size=1, max_size=25),
)
def test_rows_that_moved_see_what_is_found_by_hand(rows, questions):
    """The same against a join that a person can read."""
    found = joined_apart(source(rows), entity(questions), places=3, step=5)
    assert found["count"].to_pylist() == [by_hand(rows, *question) for question in questions]


def test_the_newest_row_of_a_key_is_the_last_by_time_created_and_position():
    """Ties go to the last created row, then to the last by position; null keys are nobody's."""
    rows = [(1, "2", 5, 3, 1), (1, "2", 5, 4, 2), (1, "2", 5, 4, 3), (None, "2", 9, 9, 4)]
    rows += [(11, "2", None, 9, 5), (12, "2", 1, None, 6), (12, "2", 1, 0, 7)]
    route = ByKeys(SHAPE.compared, 3)
    pieces = moved(view_pieces([source(rows)], SHAPE, route, side=0))
    found = [
        table["count"].to_pylist()
        for place in range(3)
        for table in newest_rows([p for p in pieces if p.place == place], SHAPE)
    ]
    assert sorted(value for values in found for value in values) == [3, 7]


def test_equal_keys_of_other_types_hash_alike_and_collisions_of_texts_do_not():
    """(1, 12) and (11, 2) differ; int32 meets int64, and texts of any layout meet."""
    pairs = [pa.array([1, 11], pa.int64()), pa.array([12, 2], pa.int64())]
    hashes, known = key_hashes(pairs, rows=2)
    assert hashes[0] != hashes[1]
    assert known.all()
    route = ByKeys({"user": pa.int64(), "item": pa.string()}, 8)
    texts = [pa.array(["a", "b"], kind) for kind in (pa.string(), pa.large_string())]
    numbers = [pa.array([1, 2], kind) for kind in (pa.int64(), pa.int8())]
    mixed = [route.hashes([n, t])[0].tolist() for n in numbers for t in texts]
    assert all(one == mixed[0] for one in mixed)


@pytest.mark.parametrize(
    "kind", [pa.bool_(), pa.date32(), pa.timestamp("us", "UTC"), pa.binary(), pa.float64()], ids=str
)
def test_keys_of_every_kind_have_a_hash(kind):
    """Equal values hash alike, in whatever chunks they come; nulls are told apart."""
    values = {"double": [1.5, 2.5], "binary": [b"a", b"b"], "bool": [True, False]}
    column = pa.array([*values.get(str(kind), [1, 2]), None], kind)
    hashes, known = key_hashes([pa.chunked_array([column, column])], rows=6)
    assert hashes[:2].tolist() == hashes[3:5].tolist()
    assert known.tolist() == [True, True, False] * 2


def test_chunks_keep_their_order_over_places():
    """Row numbers of later chunks never go to an earlier place, and all places are in reach."""
    order = ByOrder(10 * PIECE_ROWS, 4)
    places = [order.place(chunk) for chunk in range(12)]
    assert places == sorted(places)
    assert set(places) == {0, 1, 2, 3}


def test_keys_that_never_match_are_refused_where_rows_are_sent():
    """Texts asked of a view with whole numbers are named, as in one process."""
    route = ByKeys({"user": pa.int64()}, 2)
    rows = pa.table({"user": ["1"], ROW: pa.array([0], pa.int64())})
    with pytest.raises(InputError, match="user is string in the entity rows and int64"):
        list(route.of_entity(rows))


def test_values_that_do_not_fit_the_view_are_named():
    """The view, the column and the value."""
    rows = source([(1, "2", 0, 0, 2**40)])
    with pytest.raises(InputError, match=r"view clicks: n is int64 .* int32 .*1099511627776"):
        SHAPE.rows(rows)


def test_types_without_a_like_in_spark_are_widened():
    """Unsigned integers, large lists, categories, other units of time."""
    kinds = {
        "u": (pa.uint32(), pa.int64()),
        "big": (pa.uint64(), pa.decimal128(20, 0)),
        "list": (pa.large_list(pa.uint8()), pa.list_(pa.int16())),
        "category": (pa.dictionary(pa.int8(), pa.string()), pa.string()),
        "time": (pa.timestamp("ns"), pa.timestamp("us")),
        "zoned": (pa.timestamp("s", "Asia/Tokyo"), UTC_US),
        "same": (pa.float32(), pa.float32()),
    }
    found = spark_schema(pa.schema([(name, theirs) for name, (theirs, _) in kinds.items()]))
    assert found.types == [ours for _, ours in kinds.values()]
    assert np.all([name in found.names for name in kinds])
