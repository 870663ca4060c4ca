"""Sets and sequences of categories against plain loops."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lists_world import assert_same, fitted, joined, restored, spec, taken

from adc_features.errors import InputError
from adc_features.inputs import lists as lists_module
from adc_features.inputs.declaration import category_sequence, category_set
from adc_features.inputs.encoded import Encoded
from adc_features.inputs.encoders.category_sequence import CategorySequenceEncoder
from adc_features.inputs.encoders.category_set import CategorySetEncoder

TEXT = pa.list_(pa.string())


def rows(*lists, kind=TEXT):
    return joined({"tags": pa.array(lists, kind)})


def a_set(parts, **options):
    kind = category_set(**{"min_count": 1, **options})
    return fitted(CategorySetEncoder, spec("tags", kind, source="tags"), parts)


def a_sequence(parts, **options):
    kind = category_sequence(**{"min_count": 1, **options})
    return fitted(CategorySequenceEncoder, spec("tags", kind, source="tags"), parts)


BOTH = pytest.mark.parametrize("make", [a_set, a_sequence])


def test_a_set_is_the_mean_of_its_distinct_values():
    """b stands three times in training rows (row 2 of the table), a twice (row 3)."""
    training = rows(["a", "b", "a"], ["b"], ["a", "b"])
    block = a_set(training).encode(training)
    (bag,) = block.slots
    assert bag.rows.tolist() == [3, 2, 2, 3, 2]
    assert bag.offsets.tolist() == [0, 2, 3, 5]
    assert bag.weights.tolist() == [0.5, 0.5, 1, 0.5, 0.5]
    assert block.dense[:, 0] == pytest.approx(np.log1p([2, 1, 2]))
    assert block.dense[:, 1:].tolist() == [[0, 0]] * 3


@BOTH
def test_no_list_is_absent_and_an_empty_one_is_not(make):
    """null has indicator 1, [] has indicator 0; neither has elements."""
    training = rows(["a"], None, [], ["z", None])
    encoder = make(training)
    block = encoder.encode(training)
    assert block.dense[:, 2].tolist() == [0, 1, 0, 0]
    assert block.slots[0].offsets.tolist() == [0, 1, 1, 1, 2]
    assert encoder.counts(training) == {
        "absent": 1,
        "unknown": 0,
        "present": 3,
        "null_elements": 1,
    }


@BOTH
def test_unknown_elements_pool_through_row_1_and_count(make):
    """Two values outside the vocabulary are two elements of row 1, and their share is told."""
    encoder = make(rows(["a"], ["a"]))
    block = encoder.encode(rows(["new", "a", "newer"]))
    assert sorted(block.slots[0].rows.tolist()) == [1, 1, 2]
    assert block.dense[0] == pytest.approx([np.log1p(3), 2 / 3, 0])
    assert encoder.counts(rows(["new", "a"], ["a"]))["unknown"] == 1


def test_weights_of_a_sequence_halve_every_half_life():
    """With a half-life of one place: 4/7, 2/7, 1/7 from the newest."""
    training = rows(["a", "b", "c"])
    block = a_sequence(training, half_life=1.0).encode(training)
    assert block.slots[0].weights == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    newest_first = a_sequence(training, half_life=1.0, order="newest_first").encode(
        rows(["c", "b", "a"])
    )
    assert newest_first.slots[0].rows.tolist() == block.slots[0].rows.tolist()


def test_what_no_row_can_read_is_not_in_the_vocabulary():
    """Values beyond the newest `last` of every row have no row of the table."""
    encoder = a_sequence(rows(["old", "a", "b"], ["old", "b", "a"]), last=2)
    assert encoder.vocabulary.size == 2 + 2
    assert encoder.encode(rows(["old"])).slots[0].rows.tolist() == [1]


def test_a_minimum_count_counts_rows():
    """A value that one row repeats is seen once."""
    encoder = a_sequence(rows(["a", "a", "b"], ["b"]), min_count=2)
    assert encoder.encode(rows(["a", "b"])).slots[0].rows.tolist() == [1, 2]


def test_a_thousand_old_events_change_nothing():
    """Only the newest 20 are read, whatever stands before them."""
    recent = [f"x{n % 7}" for n in range(20)]
    training = rows(recent, recent[:5])
    encoder = a_sequence(training)
    assert_same(encoder.encode(rows(["old"] * 1000 + recent, recent[:5])), encoder.encode(training))
    assert len(encoder.encode(rows([*recent, "x1"])).slots[0].rows) == 20


@BOTH
def test_a_column_that_holds_no_lists_is_refused(make):
    """The message names the input, its column and the type."""
    with pytest.raises(InputError, match=r"'tags'.*string.*expected a list"):
        make(joined({"tags": pa.array(["a", "b"])}))


@BOTH
def test_values_of_another_type_are_refused(make):
    """12 and "12" are different values: the type of training is pinned."""
    encoder = make(rows(["12"], ["12"]))
    with pytest.raises(InputError, match=r"'tags'.*int64"):
        encoder.encode(rows([12], kind=pa.list_(pa.int64())))


@BOTH
def test_large_and_fixed_lists_are_lists(make):
    """A store may return list<int64>, large_list<int64> or fixed_size_list<int64>[2]."""
    lists = [[1, 2], [3, 1]]
    encoder = make(rows(*lists, kind=pa.list_(pa.int64())))
    expected = encoder.encode(rows(*lists, kind=pa.list_(pa.int64())))
    for kind in (pa.large_list(pa.int64()), pa.list_(pa.int64(), 2)):
        assert_same(encoder.encode(rows(*lists, kind=kind)), expected)


lists_of_values = st.lists(
    st.one_of(
        st.none(),
        st.lists(st.one_of(st.none(), st.sampled_from("abcdef")), max_size=8),
    ),
    min_size=1,
    max_size=12,
)


def plain_sequence(values, *, last, half_life, order, row_of):
    """(rows, weights, size) of one list, by loops."""
    kept = [v for v in values or [] if v is not None]
    kept = kept[::-1] if order == "newest_first" else kept
    kept = kept[-last:]
    weights = [0.5 ** ((len(kept) - 1 - n) / half_life) for n in range(len(kept))]
    return [row_of(v) for v in kept], [w / sum(weights) for w in weights], len(kept)


@given(
    seen=lists_of_values,
    values=lists_of_values,
    last=st.integers(1, 6),
    order=st.sampled_from(["newest_last", "newest_first"]),
    buckets=st.sampled_from([0, 3]),
)
@settings(max_examples=60, deadline=None)
def test_a_sequence_is_what_a_plain_loop_says(seen, values, last, order, buckets):
    """Rows, weights, size, share of unknown and state of every row, and of each row alone."""
    training, given_rows = rows(["a"], *seen), rows(*values)
    encoder = a_sequence(training, last=last, half_life=2.0, order=order, buckets=buckets)
    own = encoder.vocabulary.own
    block = encoder.encode(given_rows)
    (bag,) = block.slots
    for n, values_of_row in enumerate(values):
        wanted, weights, size = plain_sequence(
            values_of_row,
            last=last,
            half_life=2.0,
            order=order,
            row_of=lambda v: int(encoder.vocabulary.rows(pa.array([v]))[0]),
        )
        part = slice(bag.offsets[n], bag.offsets[n + 1])
        assert bag.rows[part].tolist() == wanted
        assert bag.weights[part] == pytest.approx(weights)
        unknown = sum(row < own for row in wanted) / max(size, 1)
        assert block.dense[n] == pytest.approx(
            [np.log1p(size), unknown, float(values_of_row is None)]
        )
        assert_same(encoder.encode(taken(given_rows, [n])), taken_block(block, [n]))
    assert_same(restored(encoder).encode(given_rows), block)


@given(seen=lists_of_values, values=lists_of_values)
@settings(max_examples=60, deadline=None)
def test_a_set_is_what_a_plain_loop_says(seen, values):
    """Distinct values in the order of their first place, whatever repeats and nulls there are."""
    encoder = a_set(rows(["a"], *seen))
    block = encoder.encode(rows(*values))
    (bag,) = block.slots
    for n, values_of_row in enumerate(values):
        distinct = list(dict.fromkeys(v for v in values_of_row or [] if v is not None))
        part = slice(bag.offsets[n], bag.offsets[n + 1])
        wanted = [int(encoder.vocabulary.rows(pa.array([v]))[0]) for v in distinct]
        assert bag.rows[part].tolist() == wanted
        assert bag.weights[part] == pytest.approx([1 / max(len(distinct), 1)] * len(distinct))
        assert block.dense[n, 0] == pytest.approx(np.log1p(len(distinct)))
        assert_same(encoder.encode(taken(rows(*values), [n])), taken_block(block, [n]))


def taken_block(block, which):
    """These rows of a block, as `Encoded.take` makes them."""
    return Encoded({"x": block}, len(block.dense)).take(np.array(which)).blocks["x"]


def test_one_row_is_as_in_a_batch_of_five_hundred():
    """Every row alone has the bits that it has among others."""
    rng = np.random.default_rng(0)
    lists = [None if n % 9 == 0 else rng.integers(0, 50, n % 30).tolist() for n in range(500)]
    batch = rows(*lists, kind=pa.list_(pa.int64()))
    for make in (a_set, a_sequence):
        encoder = make(batch, min_count=3)
        block = encoder.encode(batch)
        for n in range(0, 500, 17):
            assert_same(encoder.encode(taken(batch, [n])), taken_block(block, [n]))


def test_large_keys_are_compared_another_way(monkeypatch):
    """Rows, values and places that do not fit in 63 bits together give the same set."""
    parts = rows(["a", "b", "a"], None, ["b", "b", "c"], ["c"])
    encoder = a_set(parts)
    usual = encoder.encode(parts)
    monkeypatch.setattr(lists_module, "_BITS", 0)
    assert_same(encoder.encode(parts), usual)
