"""How candidates of a request become keys. Reads: requests. Writes: nothing."""

import pytest

from adc_features.errors import RequestError
from adc_features.serving.declared import _candidates


def test_plain_ids_and_objects_of_one_key_are_the_same_candidates():
    """Repeats are dropped in the order asked, and counted."""
    plain = _candidates([3, 1, 3, 2], ["sku"])
    assert plain == ({"sku": [3, 1, 2]}, 1)
    assert _candidates([{"sku": 3}, 1, {"sku": 3}, {"sku": 2}], ["sku"]) == plain


def test_composite_keys_differ_where_one_part_does():
    """Candidates of two keys are objects, whatever the order of their keys."""
    given = [{"sku": 1, "shop": "a"}, {"shop": "b", "sku": 1}, {"shop": "a", "sku": 1}]
    assert _candidates(given, ["sku", "shop"]) == ({"sku": [1, 1], "shop": ["a", "b"]}, 1)


def test_an_id_where_two_keys_are_needed_is_refused():
    """A plain id does not say which of the two keys it is."""
    with pytest.raises(RequestError, match="expected an object of"):
        _candidates([1], ["sku", "shop"])
