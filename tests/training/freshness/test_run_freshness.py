"""The recipes of a run under the freshness that is served, by the commands, on a small shop."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adc_features.artifact import read_manifest
from adc_features.cli.main import application
from adc_features.data.dataset import write_dataset
from adc_features.data.synthetic import Sessions, synthetic
from adc_features.errors import InputError
from adc_features.parquet_files import read_parquet
from adc_features.pipeline.run import Run, RunSettings
from adc_features.pipeline.stages import STAGES
from training.comparison.plan import ComparisonSettings, Variant, refresh_schedules
from training.stages import DATASET, FRAME, RANKERS

pytestmark = pytest.mark.slow  # a run of its own


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a shop whose users come in moods, with trees that read no codes."""
    place = tmp_path_factory.mktemp("moods")
    made = synthetic(seed=0, items=120, users=120, interactions=4_000, sessions=Sessions())
    write_dataset(made.dataset, place / "shop")
    run = Run.start(
        place / "run",
        RunSettings(str(place / "shop"), snapshots=2, codebook_size=8, steps=80, seeds=1),
    )
    for stage in (*STAGES, DATASET, RANKERS["xgboost_no_sid"]):
        run.ensure(stage)
    return place / "run"


def adc(*words: object) -> Any:
    """What a command writes as JSON."""
    done = CliRunner().invoke(application(), [*map(str, words), "--json", "-"])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return json.loads(done.stdout[done.stdout.index("{") :])


def test_a_mood_is_lost_by_the_minute(shop):
    """Sessions last minutes: a user's activity an hour late tells less, items hardly change, and
    the run is as it was."""
    before = read_manifest(shop / "dataset")
    found = adc("freshness", "--run", shop, "--intervals", "0,1s,1h,1d", "--no-retrain")
    auc = [point["fresh"]["auc"]["mean"] for point in found["curves"]["user_activity"]]
    assert auc[0] >= auc[1] - 0.01
    assert auc[0] > auc[2] + 0.03
    assert abs(auc[2] - auc[3]) < abs(auc[0] - auc[2])
    lost = found["curves"]["item_profile"][-1]["lost_fresh"]["auc"]["mean"]
    assert abs(lost) < auc[0] - auc[2]
    assert found["curves"]["user_activity"][0]["stale"] is None
    assert found["ages"]["user_activity"]["younger"]["1h"] > 0.7
    assert Path(found["page"]).is_file()
    assert read_manifest(shop / "dataset") == before


def test_a_run_is_scored_under_schedules_and_trained_on_them(shop):
    """`adc evaluate --refresh` leaves the run as it is; `adc train --refresh` joins anew, and the
    manifest of the ranker says how; no schedules give the same rows again."""
    frame = read_parquet(shop / "dataset" / FRAME)
    plain = adc("evaluate", "--run", shop)
    stale = adc("evaluate", "--run", shop, "--refresh", "user_activity=1d")
    fresh = adc("evaluate", "--run", shop, "--refresh", "user_activity=0")
    assert fresh["refresh"] == {}
    assert fresh["recipes"]["xgboost_no_sid"] == plain["recipes"]["xgboost_no_sid"]
    assert set(stale["refresh"]) == {"user_activity"}
    name = "xgboost_no_sid"
    assert stale["recipes"][name]["auc"]["mean"] < plain["recipes"][name]["auc"]["mean"]
    assert read_parquet(shop / "dataset" / FRAME).equals(frame)
    adc("train", "--run", shop, "--recipe", name, "--refresh", "user_activity=1d@03:00")
    manifest = read_manifest(shop / f"ranker_{name}" / "model")
    assert manifest["refresh"]["user_activity"]["schedule"] == "1d@03:00"
    assert not read_parquet(shop / "dataset" / FRAME).equals(frame)
    adc("train", "--run", shop, "--recipe", name, "--refresh", "user_activity=0")
    assert "refresh" not in read_manifest(shop / f"ranker_{name}" / "model")
    again = read_parquet(shop / "dataset" / FRAME)
    assert again["user_event_count"].equals(frame["user_event_count"])
    with pytest.raises(InputError, match="which are no views"):
        raise (
            CliRunner()
            .invoke(application(), ["evaluate", "--run", str(shop), "--refresh", "users=1d"])
            .exception
        )


def test_a_comparison_takes_schedules_of_its_views():
    """Statistics and the codes of every tokenizer; others, and what is no schedule, are refused
    before any work."""
    made = {"source": "synthetic", "variants": (Variant("adc", "adc"),)}
    settings = ComparisonSettings(**made, refresh={"user_activity": "1d", "item_sid": "0"})
    assert {v: str(s) for v, s in refresh_schedules(settings).items()} == {"user_activity": "1d"}
    with pytest.raises(InputError, match="joins no view 'users'"):
        ComparisonSettings(**made, refresh={"users": "1d"})
    with pytest.raises(InputError, match="is no duration"):
        ComparisonSettings(**made, refresh={"user_activity": "log"})


def test_sessions_have_seconds_and_a_mood():
    """Without sessions the generated shop is what it was; with them events of a session lie
    minutes apart and their labels agree."""
    plain = synthetic(seed=3, items=100, users=100, interactions=1_000).dataset
    assert plain.resolution.days == 1
    made = synthetic(seed=3, items=100, users=100, interactions=4_000, sessions=Sessions()).dataset
    assert made.resolution.total_seconds() == 1
    log = made.interactions.to_pandas().sort_values(["user_id", "time"], kind="stable")
    near = (log["user_id"] == log["user_id"].shift()) & (
        log["time"].diff().dt.total_seconds() < 600
    )
    agree = (log["label"] == log["label"].shift())[near].mean()
    apart = (log["label"] == log["label"].sample(frac=1, random_state=0).to_numpy()).mean()
    assert near.mean() > 0.7
    assert agree > apart + 0.1
