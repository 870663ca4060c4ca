"""Which ranker is promoted where none is named."""

import pytest

from training.evaluation.choice import Candidate, chosen
from training.quick import quick_recipes, quick_settings

WIDE = {"mean": 0.01, "low": -0.01, "high": 0.03}
SURE = {"mean": 0.02, "low": 0.01, "high": 0.03}
UNKNOWN = {"mean": 0.01, "low": None, "high": None}
CANDIDATES = {
    "worst": Candidate(0.60, 1, "1 input"),
    "few": Candidate(0.70, 2, "2 inputs"),
    "best": Candidate(0.71, 9, "9 inputs"),
    "broken": Candidate(None, 0, "none"),
}


def differing(**intervals):
    """Differences of the best to others by name; sure ones where none is given."""
    return lambda best, other: intervals.get(other, SURE)


def test_the_best_is_taken_where_it_is_better_with_certainty():
    """The reason lists what every candidate reached."""
    found = chosen(CANDIDATES, differing(), metric="gauc")
    assert found.name == "best"
    assert found.why == "validation gauc: worst 0.6000, few 0.7000, best 0.7100"


def test_among_equals_the_one_that_reads_least_is_taken():
    """One whose difference to the best may be chance is as good, and what it does not read cannot
    break; the reason says so.
    """
    found = chosen(CANDIDATES, differing(few=WIDE), metric="gauc")
    assert found.name == "few"
    told = "best is not better with certainty and reads 9 inputs, few reads 2 inputs"
    assert found.why.endswith(told)


@pytest.mark.parametrize("interval", [None, UNKNOWN, {**WIDE, "low": float("nan")}])
def test_a_difference_that_is_not_known_is_none(interval):
    """What was not compared does not count as equal."""
    found = chosen(CANDIDATES, differing(few=interval), metric="gauc")
    assert found.name == "best"


def test_a_quick_run_keeps_what_was_asked_for():
    """Two recipes, one ranker of each and short training, unless something else is given; a
    tokenizer without steps is given none.
    """
    assert quick_recipes(None) == ("no_sid", "codes_weights")
    assert quick_recipes(["codes"]) == ["codes"]
    found = quick_settings({"seeds": None, "snapshots": 5, "tokenizer": None, "final": None})
    assert (found["seeds"], found["snapshots"], found["behavior"]) == (1, 5, "quick")
    assert (found["steps"], found["one_round"]) == (30, True)
    assert "steps" not in quick_settings({"tokenizer": "rq_kmeans"})
