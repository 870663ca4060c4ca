"""Whether semantic IDs help, in a sentence, from what `adc evaluate` wrote."""

import pytest

from training.ranker.codes_help import codes_help


def judged(low: float, high: float, *, key: str = "coded_minus_plain", more=(), gauc=True):
    scores = {"mean": (low + high) / 2, "low": low, "high": high}
    inputs = {"sid": {"kind": "semantic_id"}, **{name: {"kind": "number"} for name in more}}
    return {
        "about": {
            "coded": {"inputs": inputs},
            "plain": {"inputs": {}},
            "other": {"inputs": {}},
        },
        "tasks": {
            "click": {
                "paired": {
                    key: {"request_gauc": None, "gauc": scores if gauc else None, "auc": scores},
                    "plain_minus_other": {"gauc": scores, "auc": scores},
                }
            }
        },
    }


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.001, 0.003, "better"),
        (-0.003, -0.001, "worse"),
        (-0.001, 0.003, "neither better nor worse for sure"),
    ],
)
def test_the_sentence_has_the_interval(low, high, word):
    """One a pair of which one reads codes; the interval decides on the word."""
    (said,) = codes_help(judged(low, high))
    assert f"coded, which reads semantic IDs, is {word} than plain" in said
    assert said.endswith(f"gauc {(low + high) / 2:+.4f} [{low:+.4f}, {high:+.4f}].")


def test_a_difference_that_was_taken_the_other_way_is_turned():
    """The earlier ranker is named first in the result; the sentence speaks of codes."""
    (said,) = codes_help(judged(-0.003, -0.001, key="plain_minus_coded"))
    assert "is better than plain" in said
    assert "+0.0020 [+0.0010, +0.0030]" in said


def test_other_inputs_that_differ_are_named():
    """Then it is not known that codes made the difference."""
    (said,) = codes_help(judged(0.001, 0.003, more=["age"]))
    assert "(they differ in age too)" in said


def test_without_users_it_is_auc_and_without_codes_nothing():
    """The first metric that is defined; no ranker with codes, or nothing known of them, no line."""
    assert "auc +0.0020" in codes_help(judged(0.001, 0.003, gauc=False))[0]
    assert codes_help({**judged(0.0, 0.1), "about": {}}) == []
    undefined = judged(float("nan"), float("nan"))
    assert "cannot be told" in codes_help(undefined)[0]
