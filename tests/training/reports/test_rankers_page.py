"""The page of a repository's rankers."""

import copy
import re

import pytest

from training.reports.rankers_page import rankers_page

INTERVAL = {"mean": 0.7, "low": 0.6, "high": 0.8}
CHANGE = {"mean": 0.05, "low": 0.01, "high": 0.09}
NONE = {"mean": None, "low": None, "high": None}
SCORES = {
    "auc": INTERVAL,
    "gauc": INTERVAL,
    "logloss": INTERVAL,
    "calibration": INTERVAL,
    "request_gauc": None,
    "ndcg": None,
    "mrr": None,
    "weighted": None,
}
LABELS = {
    "rows": 90,
    "missing": 3,
    "unripe": 4,
    "not_given": 0,
    "used": 83,
    "positives": 21,
    "late": 7,
}
LEANING = {"side": "user", "kind": "category", "inputs": ["age"], "drop": {"gauc": CHANGE}}
ABOUT = {
    "service": "feed_v1",
    "model": "ppnet",
    "generation": None,
    "rows": 900,
    "rounds": 2,
    "seeds": 1,
    "inputs": {
        "age": {
            "kind": "number",
            "side": "user",
            "origin": "type",
            "columns": ["profile__age (Float64)"],
            "train_only": False,
            "train": {"absent": 0.25, "unknown": 0.0},
            "judged": {"absent": 0.5, "unknown": 0.125},
        },
        "<b>place</b>": {
            "kind": "number",
            "side": "request",
            "origin": "declared",
            "columns": ["position (Int64)"],
            "train_only": True,
            "train": None,
            "judged": None,
        },
    },
    "labels": {"train": {"click": LABELS}, "validation": {"click": LABELS}},
    "windows": {"click": "3d"},
    "calibration": {"click": [{"rows": 9, "predicted": 0.1, "observed": 0.2}] * 10},
    "importance": {
        "task": "click",
        "rows": 80,
        "of": 90,
        "permutations": 3,
        "seeds": 1,
        "base": {"gauc": INTERVAL},
        "groups": {"user": LEANING},
        "inputs": {"age": LEANING},
    },
}
JUDGED = {
    "window": "validation",
    "versions": {"feed": "20260101T000000000000Z", "plain": "20260101T000000000000Z"},
    "labels": "events.parquet",
    "quick": False,
    "about": {"feed": ABOUT, "plain": {**ABOUT, "importance": None}},
    "tasks": {
        "click": {
            "rows": 90,
            "positives": 21,
            "users": 12,
            "requests": None,
            "top": 10,
            "rankers": {"feed": SCORES, "plain": SCORES},
            "paired": {"feed_minus_plain": {**SCORES, "auc": CHANGE, "gauc": NONE}},
        }
    },
}


@pytest.fixture(scope="module")
def page():
    return rankers_page(JUDGED, choice={"name": "plain", "why": "it reads fewer inputs"})


def test_the_page_says_which_ranker_is_promoted_and_why(page):
    """The answer stands first, with its reason."""
    text = re.sub(r"<[^>]+>", "", page)
    assert "without a name takes plain" in text
    assert text.index("it reads fewer inputs") < text.index("Task click")


def test_the_page_tells_inputs_shares_and_labels(page):
    """Shares of absent and unknown values, late and unripe labels, and train-only inputs as such;
    names are escaped."""
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "user number by its type profile__age (Float64) 25.0% 50.0% 0% 12.5%" in text
    assert "seen in training alone" in text
    assert "click, train 3d 90 3 4 0 83 21 7" in text
    assert "<b>place</b>" not in page
    assert "80 of 90 rows, 3 exchanges" in text


def test_the_page_loads_nothing(page):
    """One file without scripts or addresses of other files."""
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=", page)


def test_a_page_of_test_rows_chooses_nothing():
    """What is judged on test rows names no ranker, and a page without facts of rankers is made."""
    judged = copy.deepcopy(JUDGED) | {"window": "test", "about": {}}
    page = rankers_page(judged, choice={"name": "", "why": "these are test rows"})
    assert "needs the name of a ranker" in page
    assert "What do they read?" not in page


@pytest.mark.parametrize(
    ("users", "why"),
    [(None, "no key of the rankers tells the user"), (0, "no user has rows of both classes")],
)
def test_without_users_there_is_no_gauc(users, why):
    """No chart and no column of GAUC, but why there is none; what the rankers lean on is told by
    AUC.
    """
    judged = copy.deepcopy(JUDGED)
    task, importance = judged["tasks"]["click"], judged["about"]["feed"]["importance"]
    task["users"] = users
    scores = {**SCORES, "gauc": None if users is None else NONE}
    task["rankers"] = {"feed": scores, "plain": scores}
    task["paired"] = {"feed_minus_plain": {**scores, "auc": CHANGE}}
    importance["base"] = {"auc": INTERVAL}
    for part in ("groups", "inputs"):
        for one in importance[part].values():
            one["drop"] = {"auc": CHANGE}
    page = rankers_page(judged, choice={"name": "plain", "why": "it reads fewer inputs"})
    assert f"GAUC is left out: {why}." in page
    assert page.count("GAUC") == 1
    assert "Groups, drop in AUC" in page
    assert "<h3>AUC</h3>" in page
