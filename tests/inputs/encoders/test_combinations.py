"""Pairs and combinations of codes, on catalogues that one can count by hand."""

import numpy as np
import pytest

from adc_features.inputs.encoders.combinations import LEAST, Combinations

NONE = -1


def catalogue() -> np.ndarray:
    """Codes (0, 1, 2) come with LEAST + 1 fourth codes, and (3, none, 3) with LEAST."""
    trio = [[0, 1, 2, n] for n in range(LEAST + 1)]
    pair = [[3, NONE, 3, n] for n in range(LEAST)]
    return np.array([*trio, *pair, *trio], np.int32)  # what is there twice counts once


def words(fitted: Combinations, rows: np.ndarray) -> list[str]:
    """Rows as what they stand for."""
    names = {0: "nothing"}
    base = fitted.positions * fitted.size + 1
    for p in range(fitted.positions):
        names |= {1 + p * fitted.size + c: f"{p}:{c}" for c in range(fitted.size)}
    tokens = dict(names)
    for n, key in enumerate(fitted.pairs.tolist()):
        names[base + n] = "+".join(tokens[t] for t in divmod(key, base))
    for n, (one, two) in enumerate(fitted.merges.tolist()):
        tokens[base + n] = "(" + " ".join(sorted((tokens[one], tokens[two]))) + ")"
        names[base + len(fitted.pairs) + n] = tokens[base + n]
    return [names[row] for row in rows.tolist()]


def test_pairs_and_merges_are_the_frequent_ones():
    """Pairs that LEAST distinct lists hold; merges make three codes one in two steps."""
    fitted = Combinations.fit(catalogue(), 7, 50)
    rows, offsets, weights = fitted.encode(
        np.array([[0, 1, 2, 5], [3, NONE, 3, 6], [NONE] * 4, [0, NONE, 2, 0]], np.int32),
        np.array([[1, 2, 0.5, 1], [1, 0, 3, 1], [0] * 4, [1, 0, 2, 1]], np.float32),
    )
    said = words(fitted, rows)
    first = dict(zip(said[: offsets[1]], weights[: offsets[1]].tolist(), strict=True))
    assert first == {
        "0:0": 1,
        "1:1": 2,
        "2:2": 0.5,
        "3:5": 1,
        "0:0+1:1": 1,
        "0:0+2:2": 0.5,
        "1:1+2:2": 0.5,
        "((0:0 1:1) 2:2)": 0.5,
    }
    second = said[offsets[1] : offsets[2]]
    assert second == ["0:3", "2:3", "3:6", "0:3+2:3", "(0:3 2:3)"]
    assert offsets[2] == offsets[3]  # no code, no row
    assert said[offsets[3] :] == ["0:0", "2:2", "3:0", "0:0+2:2"]  # half of a merge is none
    assert rows.max() < fitted.rows


@pytest.mark.parametrize("most", [1, 3])
def test_at_most_so_many_are_kept(most):
    """The most frequent pairs, the lower tokens first among equals, and as many merges."""
    fitted = Combinations.fit(catalogue(), 7, most)
    assert len(fitted.pairs) == most
    assert len(fitted.merges) == min(most, 3)
    assert words(fitted, np.array([fitted.positions * 7 + 1]))[0] == "0:0+1:1"


def test_codes_in_common_with_nothing_have_no_combination():
    """Where every pair is rare there are single codes alone."""
    codes = np.arange(6, dtype=np.int32)[:, None].repeat(2, axis=1)
    fitted = Combinations.fit(codes, 6, 10)
    assert (len(fitted.pairs), len(fitted.merges), fitted.rows) == (0, 0, 13)
    rows, offsets, _ = fitted.encode(codes, np.ones((6, 2), np.float32))
    assert np.diff(offsets).tolist() == [2] * 6
    assert rows.tolist()[:2] == [1, 7]
