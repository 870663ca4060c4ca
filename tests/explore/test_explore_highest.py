"""The highest of millions of scores, without sorting them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adc_features.explore.find import _highest

SCORES = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0]) | st.floats(-9, 9), max_size=40)


@given(scores=SCORES, many=st.integers(1, 15))
def test_the_highest_are_those_of_a_stable_sort(scores, many):
    """Equal scores stay in their order, at the end of the list too."""
    score = np.array(scores, np.float32)
    expected = np.argsort(-score, kind="stable")[:many]
    assert _highest(score, many).tolist() == expected.tolist()
