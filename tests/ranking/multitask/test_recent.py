"""How a user's recent items and the candidate are read, with numbers that one can check by hand."""

import numpy as np

from adc_features.inputs.encoded import Bag, History
from adc_features.ranking.multitask.recent import mixture, similarity

TABLE = np.array([[0, 0], [3, 0], [0, 0.5], [4, 3], [-1, 0]], np.float32)
"""Two tables of one matrix: rows 0 to 2, and 3 to 4."""
STARTS = np.array([0, 3])


def slot(rows, weights, offsets, query, query_weights):
    return History(
        np.array(rows, np.int64).reshape(-1, 2),
        np.array(weights, np.float32).reshape(-1, 2),
        np.array(offsets),
        np.array(query),
        np.array(query_weights, np.float32),
    )


def test_similarity_is_a_weighted_sum_of_cosines():
    """By position: equal codes count their whole weight, others by their cosine, whatever the
    length of their embeddings; no code counts nothing."""
    found = similarity(
        TABLE,
        slot(
            [[1, 0], [2, 1]],
            [[0.5, 0.25], [0.25, 0.5]],
            [0, 2],
            [[1, 0], [2, 1], [0, 1]],
            [[1, 1], [1, 2], [0, 1]],
        ),
        STARTS,
    )
    # cosines: rows 1 and 2 are orthogonal; (4, 3) and (-1, 0) have -0.8
    expected = [
        [0.5, 0.25 - 0.5 * 0.8],
        [0.25, 2 * (0.5 - 0.25 * 0.8)],
        [0, 0.5 - 0.25 * 0.8],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_empty_history_is_like_nothing():
    """Users without recent items have zeros, and so has a request of such a user."""
    both = slot([[1, 0]], [[1, 1]], [0, 0, 1], [[1, 0], [1, 0]], [[1, 1], [1, 1]])
    np.testing.assert_allclose(similarity(TABLE, both, STARTS), [[0, 0], [1, 1]], atol=1e-6)
    none = slot([], [], [0, 0], [[1, 0], [1, 0]], [[1, 1], [1, 1]])
    assert similarity(TABLE, none, STARTS).tolist() == [[0, 0], [0, 0]]


def test_a_mixture_is_the_weighted_mean_that_its_vector_attends_to():
    """A vector of 0 gives the mean of weighted rows; a long one the row that it is most like; no
    elements give zeros."""
    bag = Bag(np.array([1, 2, 1]), np.array([0, 2, 2, 3]), np.array([1, 0.5, 2], np.float32))
    even = mixture(TABLE, bag, 0, np.zeros(2, np.float32))
    np.testing.assert_allclose(even, [[1.5, 0.125], [0, 0], [6, 0]], atol=1e-6)
    sure = mixture(TABLE, bag, 0, np.array([-100, 0], np.float32))
    np.testing.assert_allclose(sure, [[0, 0.25], [0, 0], [6, 0]], atol=1e-6)
