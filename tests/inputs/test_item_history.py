"""A user's recent items beside the candidate, against plain loops."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lists_world import (
    NOW,
    UTC_US,
    assert_same,
    fitted,
    joined,
    request,
    restored,
    spec,
    taken,
)
from ranking_world import day, frame, interactions, snapshots

from adc_features.clock import instant
from adc_features.errors import InputError, LeakError
from adc_features.inputs.declaration import category, item_history, semantic_id
from adc_features.inputs.encoded import Encoded
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.encoders.base import Fitting
from adc_features.inputs.encoders.category import CategoryEncoder
from adc_features.inputs.encoders.item_history import ItemHistoryEncoder
from adc_features.inputs.encoders.semantic_id import SemanticIdEncoder
from adc_features.ranking.legacy.match import code_match

DAY = np.timedelta64(86_400, "s")
CODES = semantic_id(codebook_size=8)


def rows(items, days, labels, candidates):
    """Histories, days before NOW at which each event was, and candidates."""

    def moment(days):
        return None if days is None else (NOW - np.timedelta64(days * 86_400, "s")).item()

    moments = [None if d is None else [moment(n) for n in d] for d in days]
    return joined(
        {
            "items": pa.array(items, pa.list_(pa.string())),
            "times": pa.array(moments, pa.list_(UTC_US)),
            "labels": pa.array(labels, pa.list_(pa.float32())),
            "sku": pa.array(candidates, pa.string()),
        }
    )


def of(kind, *, codes=False, lists=("times", "labels")):
    columns = {"source": "items", **{role: role for role in lists}, "candidate": "sku@item"}
    if codes:
        columns |= {"codes": "sid@item", "weights": "sid_weight@item"}
    return spec("recent", kind, side="pair", **columns)


def by_id(parts, *, lists=("times", "labels"), min_count=1, **options):
    """A history that reads the vocabulary of the candidate's category."""
    sku = spec("sku", category(min_count=min_count), side="item", source="sku@item")
    history = of(item_history(**options), lists=lists)
    fitting = Fitting(np.ones(len(parts["user"])), specs=(sku, history))
    fitted(CategoryEncoder, sku, parts, fitting)
    return fitted(ItemHistoryEncoder, history, parts, fitting)


SMALL = rows(
    [["a", "b", "a"], [], None, ["c"]],
    [[3, 2, 1], [], None, [7]],
    [[1, 0, 1], [], None, [0]],
    ["a", "a", "b", "z"],
)


def test_a_history_is_rows_of_the_candidate_s_table():
    """a (twice), b and z have rows 2, 3 and 4 of the table "sku"; c was never a candidate."""
    encoder = by_id(SMALL)
    (history,) = encoder.encode(SMALL).slots
    assert encoder.layout.slots[0].tables == ("sku",)
    assert history.rows[:, 0].tolist() == [2, 3, 2, 1]
    assert history.offsets.tolist() == [0, 3, 3, 3, 4]
    assert history.query[:, 0].tolist() == [2, 2, 3, 4]
    assert history.weights.dtype == np.float32
    assert history.weights.tolist() == [[1]] * 4
    assert encoder.counts(SMALL) == {
        "absent": 1,
        "unknown": 1,
        "present": 2,
        "null_elements": 0,
    }


def test_a_candidate_that_cannot_be_fitted_is_told_with_its_history():
    """Where no row has a candidate, both inputs are named and what is wrong with the first."""
    sku = spec("sku", category(min_count=1), side="item", source="sku@item")
    nobody = rows([["a"], ["b"]], [[3], [2]], [[1], [0]], [None, None])
    with pytest.raises(InputError, match="2 inputs cannot be encoded") as refused:
        InputEncoder.fit([sku, of(item_history())], nobody)
    assert "input 'sku' (column sku) has no value in the 2 training rows" in str(refused.value)
    assert "it reads the tables of input 'sku'" in str(refused.value)


def test_dense_numbers_tell_size_age_and_agreement():
    """Size as log1p; age of the newest, standardised over rows that have one; shares smoothed by
    two; labels beside the user's mean, smoothed by two of the mean of all, 0.5."""
    encoder = by_id(SMALL)
    dense = dict(zip(encoder.layout.dense, encoder.encode(SMALL).dense.T, strict=True))
    assert dense["recent_log_size"] == pytest.approx(np.log1p([3, 0, 0, 1]))
    assert dense["recent_log_age"] == pytest.approx([-1, 0, 0, 1])
    assert dense["recent_match_0"] == pytest.approx([2 / 5, 0, 0, 0])
    assert dense["recent_liked_match_0"] == pytest.approx([2 * (1 - 3 / 5) / 5, 0, 0, 0])
    assert dense["recent_absent"].tolist() == [0, 0, 1, 0]
    assert dense["recent_no_age"].tolist() == [0, 1, 1, 0]
    assert encoder.layout.indicators == {0: 4, 1: 5, 2: 4, 3: 4}


def test_a_stored_mean_stands_in_for_that_of_the_list():
    """Labels count beside the user's stored mean, and beside the list's where it is null."""
    table = SMALL["user"].table.append_column("mean", pa.array([0.25, None, None, None]))
    parts = joined(table)
    plain = of(item_history(mean="mean"), lists=("times", "labels", "mean"))
    sku = spec("sku", category(min_count=1), side="item", source="sku@item")
    for rows_, expected in (([0, 1, 2, 3], 2 * (1 - 0.25) / 5), ([3, 1, 2, 3], 0.0)):
        fitting = Fitting(np.ones(4), specs=(sku, plain))
        fitted(CategoryEncoder, sku, parts, fitting)
        encoder = fitted(ItemHistoryEncoder, plain, parts, fitting)
        some = joined(table.take(pa.array(rows_)))
        place = encoder.layout.dense.index("recent_liked_match_0")
        assert encoder.encode(some).dense[0, place] == pytest.approx(expected)
    nulls = joined(table.set_column(4, "mean", pa.nulls(4, pa.float64())))
    assert_same(encoder.encode(nulls), by_id(SMALL).encode(SMALL))


def test_an_unknown_item_matches_itself_alone():
    """Two items outside the vocabulary share row 1 and are not the same item."""
    encoder = by_id(SMALL)
    parts = rows([["x", "y"]], [[2, 1]], [[1, 1]], ["x"])
    block = encoder.encode(parts)
    assert block.slots[0].rows[:, 0].tolist() == [1, 1]
    assert block.dense[0, encoder.layout.dense.index("recent_match_0")] == pytest.approx(1 / 4)


def test_without_times_labels_and_matches_a_history_is_its_size():
    """Online the user's list stands once, and has a query for each candidate."""
    encoder = by_id(SMALL, lists=(), match=False)
    assert encoder.layout.dense == ("recent_log_size", "recent_absent")
    block = encoder.encode(request(SMALL, 0, [0, 2, 3]))
    assert block.dense.shape == (3, 2)
    assert block.slots[0].offsets.tolist() == [0, 3]
    assert block.slots[0].query[:, 0].tolist() == [2, 3, 4]


def test_an_event_after_its_row_is_a_leak():
    """The message names the row, the item and both times; a second of rounding is none."""
    encoder = by_id(SMALL)
    parts = rows([["a"], ["a", "b"]], [[1], [2, -1]], [[1], [1, 1]], ["a", "a"])
    with pytest.raises(LeakError, match=r"row 1 is of 2024-03-01.*b of 2024-03-02"):
        encoder.encode(parts)
    late = joined(parts["user"].table, times=parts["user"].times + DAY)
    assert len(encoder.encode(late).dense) == 2


def test_lists_of_unequal_lengths_are_refused():
    """The message names the row and the lengths."""
    parts = rows([["a"], ["a", "b"]], [[1], [2]], [[1], [1, 1]], ["a", "a"])
    with pytest.raises(InputError, match="row 1 source has 2 elements and times has 1"):
        by_id(parts)


def test_times_against_the_declared_order_are_refused():
    """Declared newest_last, stored newest first: the oldest would be kept."""
    parts = rows([["a", "b", "c"]], [[1, 2, 3]], [[1, 1, 1]], ["a"])
    with pytest.raises(InputError, match="declare order='newest_first'"):
        by_id(parts)
    assert by_id(parts, order="newest_first").encode(parts).dense[0, 1] == 0


def test_a_null_element_takes_its_time_and_label_along():
    """Null ids, times and labels are dropped with what stands beside them, and counted."""
    parts = rows([["a", None, "b", "a", "b"]], [[5, 4, None, 2, 1]], [[1, 1, 1, None, 0]], ["a"])
    encoder = by_id(SMALL)
    (history,) = encoder.encode(parts).slots
    assert history.rows[:, 0].tolist() == [2, 3]
    assert encoder.counts(parts)["null_elements"] == 3


def test_newest_first_reversed_is_newest_last():
    """The same events in the other order give the same bits, also where they are cut."""
    events = [(f"i{n % 5}", 40 - n, n % 2) for n in range(30)]
    training = rows(*([list(c)] for c in zip(*events, strict=True)), ["i0"])
    other = rows(*([list(c)[::-1]] for c in zip(*events, strict=True)), ["i0"])
    assert_same(
        by_id(training, last=7).encode(training),
        by_id(other, last=7, order="newest_first").encode(other),
    )


def test_a_thousand_old_events_change_nothing():
    """Only the newest are read; one more event changes what is read."""
    events = [("a", 9, 1), ("b", 8, 0), ("a", 7, 1)]
    old = [("b", 2000 - n, 1) for n in range(1000)]
    columns = [[list(c)] for c in zip(*events, strict=True)]
    longer = [[list(c)] for c in zip(*old, *events, strict=True)]
    encoder = by_id(SMALL, last=3)
    assert_same(
        encoder.encode(rows(*longer, ["a"])),
        encoder.encode(rows(*columns, ["a"])),
    )
    one_more = [[list(c)] for c in zip(*events, ("b", 1, 0), strict=True)]
    new = encoder.encode(rows(*one_more, ["a"]))
    assert not np.array_equal(new.dense, encoder.encode(rows(*columns, ["a"])).dense)


def test_integers_are_microseconds():
    """A list of int64 times is read as one of timestamps."""
    encoder = by_id(SMALL)
    table = SMALL["user"].table
    at = table.column_names.index("times")
    whole = table.set_column(at, "times", table["times"].cast(pa.list_(pa.int64())))
    assert_same(encoder.encode(joined(whole)), encoder.encode(SMALL))


def test_a_history_of_ids_needs_a_candidate_that_is_read():
    """Without a category on the candidate there is no table to share, unless one is named."""
    alone = Fitting(np.ones(4))
    with pytest.raises(InputError, match="no category reads; declare that category"):
        fitted(ItemHistoryEncoder, of(item_history(min_count=1)), SMALL, alone)
    encoder = fitted(ItemHistoryEncoder, of(item_history(min_count=1, share="items")), SMALL, alone)
    assert encoder.layout.slots[0].tables == ("items",)


def test_a_history_of_codes_needs_a_timeline_and_a_semantic_id():
    """Both are named in the message."""
    history = of(item_history(codes=True), codes=True)
    with pytest.raises(InputError, match="which no semantic_id input reads"):
        fitted(ItemHistoryEncoder, history, SMALL)


# ---- codes


def coded_parts(whole, *, timeline):
    """The columns of the generated shop's frame under the names of these tests."""
    renames = {
        "user_recent_items": "items",
        "user_recent_times": "times",
        "user_recent_labels": "labels",
        "item_id": "sku",
    }
    table = whole.table.rename_columns([renames.get(n, n) for n in whole.table.column_names])
    return joined(table, times=whole.times, timeline=timeline)


def by_code(parts, *, weights=True, lists=("times", "labels"), **options):
    sid = spec(
        "sid",
        semantic_id(weights=weights),
        side="item",
        codes="sid@item",
        weights="sid_weight@item",
    )
    history = of(item_history(codes=True, **options), codes=True, lists=lists)
    fitting = Fitting(np.ones(len(parts["user"])), specs=(history, sid))
    fitted(SemanticIdEncoder, sid, parts, fitting)
    return fitted(ItemHistoryEncoder, history, parts, fitting)


@pytest.fixture(scope="module")
def whole():
    return frame(interactions(300, seed=0))


def test_items_are_coded_as_of_their_row(whole):
    """The codes and weights of every event are those that were served at the row's time, in the
    tables of the candidate's codes."""
    timeline = snapshots()
    parts = coded_parts(whole, timeline=timeline)
    encoder = by_code(parts, last=5)
    (history,) = encoder.encode(parts).slots
    assert encoder.layout.slots[0].tables == ("sid/0", "sid/1", "sid/2")
    listed = parts["user"].table["items"].to_pylist()
    before = after = 0
    for n in range(0, len(listed), 11):
        part = slice(history.offsets[n], history.offsets[n + 1])
        items = np.array((listed[n] or [])[-5:], dtype=str)
        codes, weights, _ = timeline.gather(items, np.repeat(whole.times[n], len(items)))
        assert np.array_equal(history.rows[part], codes.astype(np.int64) + 1)
        assert np.array_equal(history.weights[part], weights)
        before += bool(len(items) and whole.times[n] < instant(day(70)))
        after += bool(len(items) and whole.times[n] >= instant(day(70)))
    assert before
    assert after


@pytest.mark.parametrize("weighted", [False, True])
def test_matches_of_codes_are_those_of_the_ranker(whole, weighted):
    """The plain share is `code_match`; online one user's row gives the same bits as its joined
    rows, for every candidate."""
    timeline = snapshots()
    parts = coded_parts(whole, timeline=timeline)
    encoder = by_code(parts, weights=weighted, last=1000)
    block = encoder.encode(parts)
    sid, weight = (np.array(whole.table[n].to_pylist()) for n in ("sid", "sid_weight"))
    wanted = code_match(whole, timeline, sid, weight.astype(np.float32), weighted=weighted)
    at = encoder.layout.dense.index("recent_match_0")
    assert block.dense[:, at : at + 3] == pytest.approx(wanted[:, :3], abs=1e-6)
    assert wanted.any()
    for row in (len(whole) - 1, len(whole) // 2):
        online = encoder.encode(request(parts, row, [row, 3, 9]))
        assert np.array_equal(online.dense[0], block.dense[row])
        repeated = taken(parts, [row] * 3)
        table = repeated["user"].table
        for name in ("sku", "sid", "sid_weight"):
            column = parts["user"].table[name].take(pa.array([row, 3, 9]))
            table = table.set_column(table.column_names.index(name), name, column)
        offline = encoder.encode(joined(table, times=repeated["user"].times, timeline=timeline))
        assert np.array_equal(online.dense, offline.dense)
        assert np.array_equal(online.slots[0].query, offline.slots[0].query)
    assert_same(restored(encoder).encode(parts), block)


def test_similar_codes_are_pooled_by_weight_recency_and_liking(whole):
    """Each element counts its share by recency, beside two that are like nothing, times its codes'
    weights; in a second slot also by how it was liked."""
    parts = coded_parts(whole, timeline=snapshots())
    encoder = by_code(parts, last=5, similarity=True, half_life=3.0)
    history, plain, liked = encoder.encode(parts).slots
    assert [slot.kind for slot in encoder.layout.slots] == ["history", "similarity", "similarity"]
    listed = parts["user"].table["labels"].to_pylist()
    told = 0
    for n in range(0, len(listed), 7):
        part = slice(history.offsets[n], history.offsets[n + 1])
        labels = (listed[n] or [])[-5:]
        recency = [0.5 ** ((len(labels) - 1 - at) / 3) for at in range(len(labels))]
        share = np.array(recency)[:, None] / (sum(recency) + 2) * history.weights[part]
        mean = (sum(labels) + 2 * encoder.fitted.label) / (len(labels) + 2)
        np.testing.assert_allclose(plain.weights[part], share, rtol=1e-6)
        liking = np.array(labels)[:, None] - mean if labels else np.zeros((0, 1))
        np.testing.assert_allclose(liked.weights[part], share * liking, rtol=1e-5, atol=1e-7)
        told += len(labels) > 1
    assert told > 5
    for slot in (plain, liked):
        assert np.array_equal(slot.rows, history.rows)
        assert np.array_equal(slot.query, history.query)


def test_similarity_stands_alone_and_without_labels(whole):
    """Without labels and embeddings there is one slot, and rows are counted as ever."""
    parts = coded_parts(whole, timeline=snapshots())
    encoder = by_code(parts, lists=("times",), embedded=False, similarity=True)
    both = by_code(parts, lists=("times",), similarity=True)
    (slot,) = encoder.encode(parts).slots
    assert np.array_equal(slot.weights, both.encode(parts).slots[1].weights)
    assert encoder.counts(parts) == both.counts(parts)


def test_a_timeline_is_needed_to_encode(whole):
    """Online too: what is missing is said before anything is scored."""
    parts = coded_parts(whole, timeline=snapshots())
    encoder = by_code(parts)
    with pytest.raises(InputError, match=r"publish codes, or declare item_history\(codes=False\)"):
        encoder.encode(replace(parts, timeline=None))


# ---- properties

events = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "b", "c", "q"]), st.integers(0, 60), st.sampled_from([0, 1])
    ),
    max_size=7,
)


@given(
    values=st.lists(
        st.tuples(st.one_of(st.none(), events), st.sampled_from([None, "a", "b", "q"])),
        min_size=1,
        max_size=6,
    ),
    last=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_it_is_what_a_plain_loop_says(values, last):
    """Rows, matches and states of every row; alone, restored and as one user's the same bits."""
    encoder = by_id(SMALL, last=last)
    parts = rows(
        [None if e is None else [v for v, _, _ in e] for e, _ in values],
        [None if e is None else [d for _, d, _ in e] for e, _ in values],
        [None if e is None else [y for _, _, y in e] for e, _ in values],
        [c for _, c in values],
    )
    block = encoder.encode(parts)
    (history,) = block.slots
    names = encoder.layout.dense
    row_of = {"a": 2, "b": 3, "z": 4}
    mean_of_all = 1 / 3 if last == 2 else 1 / 2  # of the newest labels of SMALL
    for n, (of_row, candidate) in enumerate(values):
        kept = [(v, d, y) for v, d, y in of_row or [] if v is not None][-last:]
        part = slice(history.offsets[n], history.offsets[n + 1])
        assert history.rows[part, 0].tolist() == [row_of.get(v, 1) for v, _, _ in kept]
        assert history.query[n, 0] == (0 if candidate is None else row_of.get(candidate, 1))
        mean = (sum(y for _, _, y in kept) + 2 * mean_of_all) / (len(kept) + 2)
        equal = [y - mean for v, _, y in kept if v == candidate]
        got = dict(zip(names, block.dense[n], strict=True))
        assert got["recent_match_0"] == pytest.approx(len(equal) / (len(kept) + 2))
        assert got["recent_liked_match_0"] == pytest.approx(sum(equal) / (len(kept) + 2), abs=1e-6)
        assert got["recent_absent"] == (of_row is None)
        assert got["recent_no_age"] == (not kept)
        assert_same(
            encoder.encode(taken(parts, [n])),
            Encoded({"x": block}, len(values)).take(np.array([n])).blocks["x"],
        )
        everyone = list(range(len(values)))
        assert np.array_equal(encoder.encode(request(parts, n, everyone)).dense[n], block.dense[n])
    assert_same(restored(encoder).encode(parts), block)
