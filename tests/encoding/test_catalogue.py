"""What only the whole catalogue tells is found in bounded memory."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from adc_features.codes.quality import collision_counts
from adc_features.encoding import catalogue
from adc_features.encoding.catalogue import check_ids, count_collisions
from adc_features.errors import InputError


@pytest.mark.parametrize(("size", "length"), [(3, 2), (5, 4), (1000, 8)])
@pytest.mark.parametrize("at_once", [17, 100, 10_000])
def test_collisions_are_those_of_all_items_at_once(size, length, at_once):
    """Whatever the rounds and pieces, each item's count is the one over the whole catalogue."""
    chance = np.random.default_rng(size)
    sid = chance.integers(-1, size, (500, length)).astype(np.int32)
    sid[100:200] = sid[:100]
    cuts = [0, 3, 180, 181, 500]

    def codes():
        return (sid[a:b] for a, b in pairwise(cuts))

    made = count_collisions(codes, 500, codebook_size=size, at_once=at_once)
    assert made.dtype == np.int32
    np.testing.assert_array_equal(made, collision_counts(sid, codebook_size=size))
    assert (made[:100] >= 2).all()


@pytest.mark.parametrize("kind", [str, int])
@pytest.mark.parametrize("at_once", [7, 1000])
def test_an_id_that_stands_twice_is_found_wherever_it_is(kind, at_once):
    """Two pieces share an id: it is named. Without it every id is taken."""
    ids = [kind(n) for n in range(100)]

    def check(*more):
        columns = [pa.chunked_array([ids[:40]]), pa.chunked_array([[*ids[40:], *more]])]
        check_ids(lambda: iter(columns), 100 + len(more), at_once=at_once)

    check()
    with pytest.raises(InputError, match=r"1 item ids stand more than once \(first .*13"):
        check(ids[13])


def test_two_strings_of_one_hash_are_two_items(monkeypatch):
    """Where the hashes of two ids meet, the ids themselves are compared."""
    monkeypatch.setattr(catalogue, "id_keys", lambda ids: np.zeros(len(ids), np.uint64))
    columns = [pa.chunked_array([["a", "b"]]), pa.chunked_array([["c"]])]
    check_ids(lambda: iter(columns), 3)
    with pytest.raises(InputError, match="'b'"):
        check_ids(lambda: iter([*columns, pa.chunked_array([["b"]])]), 4)


def test_ids_that_are_null_or_of_another_type_are_refused():
    """A row without an id is no item."""
    with pytest.raises(InputError, match="1 ids are null"):
        check_ids(lambda: iter([pa.chunked_array([["a", None]])]), 2)
    with pytest.raises(InputError, match="expected integers or strings"):
        check_ids(lambda: iter([pa.chunked_array([[0.5]])]), 1)
