"""Variants compared on what was served."""

import numpy as np
import pytest

from adc_features.errors import InputError
from training.evaluation.variants import compare_variants


def served(*, users: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """variant, user, label of users with 1 to 9 rows each; half of them have the variant "new",
    whose rows are clicked with this probability, the others' with 0.2."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.integers(1, 10, users))
    variant = np.where(user % 2, "new", None)
    label = rng.random(len(user)) < np.where(user % 2, share, 0.2)
    return variant, user, label.astype(float)


def test_means_and_differences_are_those_of_the_rows():
    """Two users each: 3 of 4 rows clicked against 1 of 4, by hand; weights count rows several
    times."""
    variant = np.array(["new"] * 4 + [None] * 4, dtype=object)
    user = np.array(["a", "a", "a", "b", "c", "c", "d", "d"])
    label = np.array([1.0, 1, 1, 0, 1, 0, 0, 0])
    found = compare_variants(variant, user, label, draws=50)
    assert found["variants"]["new"]["label"]["mean"] == 0.75
    assert found["variants"]["promoted"] | {"label": None} == {"users": 2, "rows": 4, "label": None}
    assert found["against"]["new"]["label"]["mean"] == 0.5
    assert found["users_of_several"] == 0
    weight = np.array([1.0, 1, 1, 3, 1, 1, 1, 1])
    weighted = compare_variants(variant, user, label, weight=weight, draws=50)
    assert weighted["variants"]["new"]["label"]["mean"] == 0.5


def test_gauc_is_of_the_users_that_have_both_labels():
    """One user of the variant is ranked rightly, one wrongly; one of the pair has no click."""
    variant = np.array(["new"] * 4 + [None] * 4, dtype=object)
    user = np.array([1, 1, 2, 2, 3, 3, 4, 4])
    label = np.array([1.0, 0, 1, 0, 1, 0, 0, 0])
    score = np.array([0.9, 0.1, 0.1, 0.9, 0.9, 0.1, 0.5, 0.5])
    found = compare_variants(variant, user, label, score, draws=50)
    assert found["variants"]["new"]["gauc"]["mean"] == 0.5
    assert found["variants"]["promoted"]["gauc"]["mean"] == 1.0
    assert found["against"]["new"]["gauc"]["mean"] == -0.5
    assert (
        "gauc" not in compare_variants(variant, user, 3 * label, score, draws=9)["against"]["new"]
    )


def test_a_real_difference_is_found_and_none_is_not_invented():
    """Of 40 logs without a difference at most 6 have an interval that excludes 0; one of a third
    more clicks on 4,000 users does."""
    excluded = 0
    for seed in range(40):
        interval = compare_variants(*served(users=300, share=0.2, seed=seed), draws=200)
        low, high = (interval["against"]["new"]["label"][side] for side in ("low", "high"))
        excluded += not low <= 0 <= high
    assert excluded <= 6
    better = compare_variants(*served(users=4_000, share=0.27, seed=0), draws=200)
    label = better["against"]["new"]["label"]
    assert 0.03 < label["low"] < 0.07 < label["high"] < 0.11


def test_rows_of_one_user_are_not_independent():
    """A log in which each user's label is repeated a hundred times has intervals as wide as the
    log of one row a user."""
    variant, user, label = served(users=400, share=0.2, seed=1)
    _, first = np.unique(user, return_index=True)
    one = variant[first], user[first], label[first]
    many = tuple(np.repeat(column, 100) for column in one)
    widths = []
    for log in (one, many):
        interval = compare_variants(*log, draws=200)["against"]["new"]["label"]
        widths.append(interval["high"] - interval["low"])
    assert widths[0] == pytest.approx(widths[1], rel=1e-9)


def test_users_that_had_several_variants_are_counted():
    """A user who was served before and after the variant began is in both."""
    variant = np.array(["new", None, None], dtype=object)
    found = compare_variants(variant, np.array([1, 1, 2]), np.ones(3), draws=9)
    assert found["users_of_several"] == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"variant": np.array([None, None], dtype=object)}, "at least one variant"),
        ({"variant": np.array(["a", "b"], dtype=object)}, "rows of the promoted pair"),
        ({"label": np.array([1.0, np.nan])}, "label of row 1 is nan"),
        ({"weight": np.array([1.0, 0.0])}, "weight of row 1 is 0.0; expected a positive number"),
        ({"user": np.array([1])}, "user has 1 rows, variant has 2"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(changed, words):
    """With the row, or what is missing."""
    given = {
        "variant": np.array(["new", None], dtype=object),
        "user": np.array([1, 2]),
        "label": np.array([1.0, 0.0]),
    }
    with pytest.raises(InputError, match=words):
        compare_variants(**given | changed, draws=9)
