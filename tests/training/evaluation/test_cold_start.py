"""Rows by what training knew of their items, and metrics of these groups."""

import numpy as np
import pytest
from ranking_world import day, frame, interactions

from adc_features.errors import InputError
from training.evaluation.cold_start import (
    EVENTS,
    cold_start_groups,
    estimates_by_group,
    with_unseen_ids,
)
from training.evaluation.metrics import PairedBootstrap, gauc


@pytest.fixture(scope="module")
def whole():
    return frame(interactions(400, seed=3))


def test_groups_are_those_of_a_plain_loop(whole):
    """Each row has the events and the days that the rows before the window hold of its item."""
    before, scored = whole.between(None, day(20)), whole.between(day(20), day(40))
    groups = cold_start_groups(before, scored)
    ends = {"0": (0, 0), "1-3": (1, 3), "4-9": (4, 9), "10+": (10, 10**9)}
    for n, (item, time) in enumerate(zip(scored.item_ids, scored.times, strict=True)):
        seen = before.times[before.item_ids == item]
        for name, (least, most) in ends.items():
            assert groups[f"events {name}"][n] == (least <= len(seen) <= most)
        age = (time - seen.min()) // np.timedelta64(1, "D") if len(seen) else -1
        assert groups["days 0-89"][n] == (0 <= age < 90)
        assert groups["popularity cold"][n] == (not len(seen))
    assert np.sum([groups[f"events {name}"] for name in EVENTS], axis=0).tolist() == [1] * len(
        scored
    )
    assert groups["events 0"].any()
    assert groups["events 1-3"].any()


def test_rows_of_the_window_are_no_training_rows(whole):
    """A window that overlaps what a ranker was trained on is refused."""
    with pytest.raises(InputError, match="give rows that are older than the window"):
        cold_start_groups(whole.between(None, day(30)), whole.between(day(20), day(40)))


def test_windows_are_weighed_by_rows_and_not_mixed():
    """A score is compared within its window alone; a window in which a group has one class says
    nothing of it."""
    label = np.array([1, 0, 0, 1, 1, 0, 1, 1], float)
    score = np.array([0.9, 0.1, 0.2, 0.3, 0.3, 0.2, 0.9, 0.9])
    user = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    groups = [
        {"all": np.ones(4, bool), "new": np.array([0, 1, 1, 1], bool)},
        {"all": np.ones(4, bool), "new": np.array([1, 0, 1, 0], bool)},
    ]
    found = estimates_by_group(PairedBootstrap(label, user, seed=0), score, groups)
    assert found["all"]["auc"].value == 1.0
    assert found["all"]["gauc"].value == gauc(label, score, user).value
    assert found["new"]["auc"].value == 1.0  # the second window has positives alone
    none = estimates_by_group(
        PairedBootstrap(label, user, seed=0), score, [{"all": np.ones(8, bool), "none": label > 2}]
    )
    assert np.isnan(none["none"]["auc"].value)


def test_twins_differ_by_their_ids_alone(whole):
    """No id of a twin is an item's, equal items have one twin, and every feature stays."""
    twins = with_unseen_ids(whole)
    assert not set(twins.item_ids) & set(whole.item_ids)
    assert len(set(twins.item_ids)) == len(set(whole.item_ids))
    assert twins.table.drop_columns(["item_id"]).equals(whole.table.drop_columns(["item_id"]))
