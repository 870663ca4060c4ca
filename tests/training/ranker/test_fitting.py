"""What is refused before a ranker is fitted, and which rows choose its rounds."""

from dataclasses import fields

import numpy as np
import pytest

from adc_features.errors import InputError
from adc_features.inputs.declaration import SETTINGS
from adc_features.ranking.multitask.shape import NetworkSettings
from training.ranker.fit_network import FitSettings
from training.ranker.fitting import TrainSettings, older_and_newest

MONDAY = np.datetime64("2026-03-02", "us")


def days(*after):
    return MONDAY + np.array(after) * np.timedelta64(1, "D")


def split(times, *tasks):
    mask = np.array(tasks or [[1] * len(times)], bool)
    return tuple(places.tolist() for places in older_and_newest(times, mask))


def test_a_declaration_may_name_every_setting():
    """What `Ranker.settings` may name is all that builds a network, then all that trains it."""
    kinds = NetworkSettings, FitSettings
    assert list(SETTINGS) == [field.name for kind in kinds for field in fields(kind)]


def test_the_newest_tenth_chooses_the_rounds():
    """It begins between two times: rows of one time are on one side."""
    assert split(days(*range(10))) == ([*range(9)], [9])
    assert split(days(*range(7), 8, 8, 8)) == ([*range(7)], [7, 8, 9])


def test_a_task_whose_labels_ripen_late_has_a_say():
    """Where the newest tenth has none of its labels, its own newest tenth is held out too."""
    ripe = [1] * 5 + [0] * 5
    assert split(days(*range(10)), [1] * 10, ripe) == ([0, 1, 2, 3], [4, 5, 6, 7, 8, 9])
    assert split(days(*range(10)), [1] * 10, [0] * 10) == ([*range(9)], [9])


def test_most_rows_of_the_first_time_are_learned_from():
    """Later ones choose the rounds, however few they are; without any it is refused."""
    assert split(days(*[0] * 12, 1)) == ([*range(12)], [12])
    with pytest.raises(InputError, match=r"all 3 rows to learn from are of one time.*--quick"):
        split(days(1, 1, 1))


@pytest.mark.parametrize(
    ("setting", "value"), [("seeds", 0), ("seed", -1), ("keep_negatives", 0.0)]
)
def test_settings_are_refused_at_once(setting, value):
    """Not once the rows are joined."""
    with pytest.raises(InputError, match=f"is {value}; expected"):
        TrainSettings(**{setting: value})
