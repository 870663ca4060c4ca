"""What a comparison says of given scores: fits in its intervals, baselines, new items, the per-user
split, and the words of its page. No tokenizer is fitted here.
"""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from adc_features.artifact import write_json
from adc_features.errors import InputError
from adc_features.loader.frame import TrainingFrame
from training.cli.comparison_lines import comparison_lines
from training.comparison.baselines import scores_of_baselines
from training.comparison.plan import Variant, Window, newest_of_users
from training.comparison.significance import comparison_result
from training.comparison.trial import Trial
from training.comparison.verdict import codes_verdict, covers_text
from training.evaluation.refits import Refitted
from training.reports.comparison_page import comparison_page

START = datetime(2024, 1, 1, tzinfo=UTC)
ROWS, TRAINED = 600, 300
WINDOW = Window("late", START + timedelta(days=TRAINED), START + timedelta(days=ROWS))
OF_USERS = Window("per_user", WINDOW.start, WINDOW.end, per_user=True)


@pytest.fixture(scope="module")
def frame() -> TrainingFrame:
    """600 rows, one a day, of 30 users and 40 items; the last ten items are new in the window."""
    rng = np.random.default_rng(0)
    items = rng.integers(0, 30, ROWS)
    items[TRAINED:] = rng.integers(0, 40, ROWS - TRAINED)
    times = [START + timedelta(days=n) for n in range(ROWS)]
    return TrainingFrame(
        pa.table(
            {
                "row_id": pa.array(np.arange(ROWS), pa.int64()),
                "user_id": [f"u{n}" for n in rng.integers(0, 30, ROWS)],
                "item_id": [f"i{n}" for n in items],
                "event_timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
                "label": pa.array(rng.integers(0, 2, ROWS), pa.float32()),
                "item_label_mean": rng.random(ROWS),
                "user_label_mean": rng.random(ROWS),
                "item_event_count": pa.array(rng.integers(0, 9, ROWS), pa.int64()),
            }
        ),
        None,
        0,
        timedelta(days=1),
    )


def trials(frame: TrainingFrame, window: Window, *, gains) -> list[Trial]:
    """A trial of no codes and one of codes a fit: the label and noise, of codes with `gains` more
    of the label in each fit.
    """
    _, scored = window.parts(frame)
    noise = np.random.default_rng(1).normal(size=len(scored))

    def score(gain: float) -> np.ndarray:
        return 1 / (1 + np.exp(-(noise + (0.5 + gain) * scored.labels)))[None]

    found = []
    for fit, gain in enumerate(gains):
        found += [
            Trial(window, None, {"no_sid/ppnet": score(0.0)}, {}, fit),
            Trial(window, "adc", {"adc/ppnet": score(gain)}, {}, fit),
            Trial(window, "baselines", {"item_mean/baseline": score(-0.3)}, {}, fit),
        ]
    return found


RESULTS: dict[tuple[float, ...], dict] = {}
"""Of gains, made once."""


def result(frame: TrainingFrame, *, gains) -> dict:
    found = RESULTS.get(tuple(gains)) or comparison_result(
        trials(frame, WINDOW, gains=gains), frame, first="adc"
    )
    RESULTS[tuple(gains)] = found
    return {"fits": len(gains), **found}


def test_the_interval_widens_by_what_fits_differ(frame):
    """The same mean gain in every fit, and one that varies: the second interval is wider, by what
    the fits say; both say what they cover.
    """
    even = result(frame, gains=[0.5] * 3)
    uneven = result(frame, gains=[0.1, 0.9, 0.5])
    steady, varied = (r["paired"]["adc_minus_no_sid"]["auc"] for r in (even, uneven))
    assert np.ptp(steady["fits"]) == 0 < np.ptp(varied["fits"])
    assert varied["high"] - varied["low"] > 1.2 * (steady["high"] - steady["low"])
    assert varied["p"] > steady["p"]
    assert even["interval_covers"] == uneven["interval_covers"] == ["users", "fits"]


def test_one_fit_covers_users_alone_and_says_so(frame):
    """No spread can be read off one fit: the words name what is left out."""
    one = result(frame, gains=[0.5])
    assert one["interval_covers"] == ["users"]
    assert "leave out the chance of fitting" in covers_text(one)
    assert "5 fits (degrees of freedom of Student's t: 4)" in covers_text({"fits": 5})
    assert "Behaviour vectors were learned once" in covers_text({"fits": 5, "behavior_fits": 1})
    assert "So few fits" in covers_text({"fits": 2})


def test_baselines_stand_in_the_table_and_are_compared_apart(frame):
    """Theirs is a family of comparisons of its own: Holm counts them together."""
    found = result(frame, gains=[0.5] * 3)
    assert "item_mean/baseline" in found["systems"]
    assert set(found["paired"]) == {"adc_minus_no_sid"}
    assert set(found["paired_baselines"]) == {"adc_minus_item_mean"}
    assert found["paired_baselines"]["adc_minus_item_mean"]["auc"]["survives"]


def test_new_items_are_those_of_three_training_rows_at_most(frame):
    """The AUC over their rows, counted by hand; the intervals of each recipe are given."""
    before, scored = WINDOW.parts(frame)
    rows = sum((before.item_ids == item).sum() <= 3 for item in scored.item_ids)
    found = result(frame, gains=[0.5] * 3)
    assert found["new_items_of"] == {"at_most_training_rows": 3, "rows": rows}
    assert set(found["new_items"]) == {"no_sid", "adc", "item_mean"}
    assert set(found["new_items"]["adc"]["auc"]) == {"mean", "low", "high"}


def test_the_verdict_says_whether_codes_help_with_its_interval(frame):
    """One sentence each for a gain, a loss, and a difference that chance explains."""
    help_, none, cost = (
        codes_verdict(result(frame, gains=gains), first="adc")
        for gains in ([2.0] * 3, [0.4, -0.4, 0.0], [-2.0] * 3)
    )
    assert help_.startswith("Codes of adc help here: GAUC +")
    assert "cannot be told from none" in none
    assert cost.startswith("Codes of adc cost here: GAUC -")
    assert codes_verdict({"paired": {}}, first="adc") is None


@pytest.mark.slow  # draws some thirty pictures
def test_the_page_says_how_many_fits_and_the_verdict(frame):
    """Of a result with windows and a per-user split, with what is absent by name."""
    both = trials(frame, WINDOW, gains=[0.5] * 3) + trials(frame, OF_USERS, gains=[0.5] * 3)
    both[2].facts["absent"] = {"lightgbm": "the package lightgbm is not installed"}
    found = comparison_result(both, frame, first="adc")
    found = {"fits": 3, "command": "", "left_out": [], **found}
    page = comparison_page(found, title="Compared", first="adc")
    for said in ("the chance of 3 fits", "Codes of adc help here", "Each user", "not installed"):
        assert said in page


def test_the_per_user_split_scores_each_users_newest_rows(frame):
    """Of ten rows two, of four two, of three none; rows of one time stay together."""
    users = np.array(["a"] * 10 + ["b"] * 4 + ["c"] * 3 + ["d"] * 4)
    times = np.concatenate([np.arange(10), np.arange(4), np.arange(3), [0, 1, 1, 2]])
    newest = newest_of_users(users, times)
    assert np.flatnonzero(newest).tolist() == [8, 9, 12, 13, 18, 19, 20]
    before, scored = OF_USERS.parts(frame)
    assert len(before) + len(scored) == ROWS
    for user in np.unique(frame.user_ids):
        old, new = (part.times[part.user_ids == user] for part in (before, scored))
        assert old.max() < new.min()
        assert len(new) == max(len(old) + len(new), 10) // 5
    found = comparison_result(
        trials(frame, WINDOW, gains=[0.5] * 3) + trials(frame, OF_USERS, gains=[0.5] * 3),
        frame,
        first="adc",
    )
    assert found["pooled_rows"] == ROWS - TRAINED
    assert found["per_user"]["rows"] == len(scored)
    assert "adc_minus_no_sid" in found["per_user"]["paired"]


def test_baselines_are_read_off_the_rows(frame, monkeypatch):
    """The item's mean, the sum of log odds of user and item, the count; without LightGBM a line
    says how to get it.
    """
    before, scored = WINDOW.parts(frame)
    monkeypatch.setattr("training.comparison.baselines.lightgbm_version", lambda: None)
    scores, facts = scores_of_baselines(before, scored, seeds=[0])
    item, user = scored.numbers("item_label_mean"), scored.numbers("user_label_mean")
    assert np.array_equal(scores["item_mean/baseline"][0], item)
    odds = np.clip(item, 1e-3, 0.999), np.clip(user, 1e-3, 0.999)
    expected = sum(np.log(p / (1 - p)) for p in odds)
    assert scores["user_item_means/baseline"][0] == pytest.approx(expected)
    assert np.array_equal(scores["popularity/baseline"][0], scored.numbers("item_event_count"))
    assert "pip install 'adc-features[report]'" in facts["absent"]["lightgbm"]


def test_the_lines_say_what_the_page_says(frame):
    """Fits, the verdict, and every difference from networks and from baselines."""
    found = {"page": "p.html", "left_out": [], **result(frame, gains=[2.0] * 3)}
    said = comparison_lines(found, first="adc")
    for words in ("the chance of 3 fits", "Codes of adc help", "adc_minus_no_sid", "item_mean"):
        assert words in said


def test_a_result_is_plain_json(frame, tmp_path):
    """Written and read again it is the same."""
    found = result(frame, gains=[0.5] * 3)
    write_json(tmp_path / "r.json", found)
    read = json.loads((tmp_path / "r.json").read_text())
    assert read["paired"]["adc_minus_no_sid"]["gauc"] == found["paired"]["adc_minus_no_sid"]["gauc"]


@pytest.mark.parametrize("name", ["baselines", "without_codes"])
def test_a_variant_does_not_take_the_name_of_our_own_trials(name):
    """It would be read in their place."""
    with pytest.raises(InputError, match="as our own trials are"):
        Variant(name, "adc")


def test_fits_of_other_numbers_are_not_subtracted():
    """A difference is fit by fit; a fit without its other half has none."""
    from training.evaluation.metrics import Estimate

    one = Estimate(0.5, np.zeros(3))
    with pytest.raises(ValueError, match="zip"):
        Refitted([one]) - Refitted([one, one])
