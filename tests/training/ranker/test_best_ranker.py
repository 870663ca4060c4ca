"""Which ranker is promoted where none is named, by what its rows define."""

import pytest

from adc_features.artifact import seal, write_json
from adc_features.serving.workspace import Workspace, evaluation_path
from training.ranker.workflow import best_ranker

LOWER, HIGHER = ({"mean": mean, "low": mean - 0.01, "high": mean + 0.01} for mean in (0.5, 0.7))
UNKNOWN = {"mean": None, "low": None, "high": None}
SURE = {"mean": 0.2, "low": 0.1, "high": 0.3}


@pytest.mark.parametrize(
    ("known", "metric"), [({"users": 0}, "auc"), ({"users": 3}, "gauc")], ids=["rows", "users"]
)
def test_rankers_are_compared_by_what_their_rows_define(tmp_path, known, metric):
    """The better ranker is taken by AUC where no user has rows of both classes, else by GAUC."""
    scores = {
        name: dict.fromkeys(("auc", "gauc", "request_gauc"), UNKNOWN) | {metric: reached}
        for name, reached in (("worse", LOWER), ("better", HIGHER))
    }
    for name in scores:
        version = Workspace(tmp_path, name).directory / "v1"
        version.mkdir(parents=True)
        seal(version, {"pins": {"inputs": {"age": {}}}})
    task = {"requests": None, **known, "rankers": scores}
    task["paired"] = {"worse_minus_better": {"auc": SURE, "gauc": SURE, "request_gauc": UNKNOWN}}
    judged = {"window": "validation", "versions": dict.fromkeys(scores, "v1")}
    write_json(evaluation_path(tmp_path), judged | {"tasks": {"click": task}})
    found = best_ranker(tmp_path)
    assert found.name == "better"
    assert found.why == f"validation {metric}: worse 0.5000, better 0.7000"
