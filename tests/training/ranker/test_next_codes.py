"""Embeddings of codes that are learned from which codes follow each other."""

import numpy as np
import pytest

from adc_features.inputs.declaration import Ranker, Task
from adc_features.inputs.encoded import (
    Block,
    Encoded,
    InputLayout,
    Layout,
    Lookup,
    SlotLayout,
)
from adc_features.ranking.multitask.shape import NetworkShape
from training.ranker.labelled import Labelled
from training.ranker.next_codes import next_code_tables

CODES, ROWS = 8, 3000
LAYOUT = Layout(
    {
        "sid": InputLayout(
            slots=(SlotLayout("lookup", ("sid/0",)), SlotLayout("lookup", ("sid/1",)))
        )
    },
    {"sid/0": CODES + 1, "sid/1": CODES + 1},
)
SHAPE = NetworkShape.of(LAYOUT, Ranker("feed", [Task("click")]))


@pytest.fixture(scope="module")
def rows() -> Labelled:
    """Users who stay with even or with odd codes where they click, and see any where they do not;
    rows in no order, and some items without a second code."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, 200, ROWS)
    clicked = rng.random(ROWS) < 0.5
    like = 1 + 2 * rng.integers(0, CODES // 2, (ROWS, 2)) + (user % 2)[:, None]
    codes = np.where(clicked[:, None], like, rng.integers(1, CODES + 1, (ROWS, 2)))
    codes[rng.random(ROWS) < 0.1, 1] = 0
    slots = tuple(Lookup(np.ascontiguousarray(column)) for column in codes.T)
    encoded = Encoded({"sid": Block(np.zeros((ROWS, 0), np.float32), slots)}, ROWS)
    labels = clicked[None].astype(np.float32)
    times = np.datetime64("2026-01-01", "us") + rng.integers(0, 10**9, ROWS)
    mask, weights = np.ones((1, ROWS), bool), np.ones(ROWS)
    return Labelled(encoded, labels, mask, weights, None, user, times)


def alike(table: np.ndarray) -> tuple[float, float]:
    """Mean cosine of codes of one kind, and of codes of two kinds."""
    unit = table[1:] / np.linalg.norm(table[1:], axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = np.add.outer(np.arange(CODES), np.arange(CODES)) % 2 == 0
    off = ~np.eye(CODES, dtype=bool)
    return cosine[same & off].mean(), cosine[~same].mean()


def test_codes_that_follow_each_other_become_alike(rows):
    """Codes of one kind of user are alike before a label is learned, and those of two kinds are
    not; the tables begin as large as others do, and no code is 0."""
    tables = next_code_tables(rows, SHAPE, {"sid": 8}, seed=0)
    assert list(tables) == ["sid/0", "sid/1"]
    for table in tables.values():
        same, other = alike(table)
        assert same > other + 0.4
        assert table.shape == (CODES + 1, SHAPE.settings.embedding)
        assert not table[0].any()
        assert 0.03 < table[1:].std() < 0.07


def test_what_is_not_clicked_teaches_nothing(rows):
    """Other rows without a positive label, and other labels that are masked, change no table."""
    known = next_code_tables(rows, SHAPE, {"sid": 1}, seed=0)
    some = rows.labels[0] == 0
    slots = tuple(Lookup(np.where(some, 1, slot.rows)) for slot in rows.encoded.blocks["sid"].slots)
    other = Encoded({"sid": Block(rows.encoded.blocks["sid"].dense, slots)}, ROWS)
    masked = rows._replace(encoded=other, labels=np.ones_like(rows.labels), mask=rows.labels > 0)
    for name, table in next_code_tables(masked, SHAPE, {"sid": 1}, seed=0).items():
        np.testing.assert_array_equal(table, known[name])
    again = next_code_tables(rows, SHAPE, {"sid": 1}, seed=1)
    assert not np.array_equal(again["sid/0"], known["sid/0"])


def test_without_users_or_epochs_there_is_nothing_to_begin_with(rows):
    """No users, no positive rows that follow one another, or no epochs: no tables."""
    assert next_code_tables(rows._replace(users=None), SHAPE, {"sid": 2}, seed=0) == {}
    assert next_code_tables(rows, SHAPE, {"sid": 0}, seed=0) == {}
    alone = rows._replace(users=np.arange(ROWS))
    assert next_code_tables(alone, SHAPE, {"sid": 2}, seed=0) == {}
