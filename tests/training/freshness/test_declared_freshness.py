"""A ranker under the freshness that is served, by the commands, where the cost of it is known."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from moody_world import START, Moody, moody_world
from typer.testing import CliRunner

from adc_features.artifact import read_manifest
from adc_features.cli.main import application
from adc_features.errors import InputError
from adc_features.pipeline.checkup import checkup
from adc_features.serving.workspace import Workspace
from adc_features.store.refresh_log import note_refresh
from adc_features.store.services.schema import declared_rankers
from training.cli.rankers import scores_text
from training.freshness.curve import ALL, freshness_curve
from training.freshness.subjects import ServiceSubject
from training.ranker.fitting import TrainSettings
from training.ranker.joined import join_labels


def adc(*words: object) -> dict:
    """What a command writes as JSON."""
    done = CliRunner().invoke(application(), [*map(str, words), "--json", "-"])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def moody(tmp_path_factory) -> Moody:
    return moody_world(tmp_path_factory.mktemp("moody"))


def declare(folder: Path, refresh: dict) -> None:
    config = yaml.safe_load((folder / "feature_store.yaml").read_text())
    config["adc_features"] = {"refresh": refresh}
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))


def test_the_curve_falls_as_the_truth_does(moody):
    """Moods are forgotten within hours: the longer the interval, the lower the AUC; a view that
    never changes loses nothing."""
    found = adc(
        "freshness", "--repo", moody.folder, "--labels", moody.labels, "--quick",
        "--intervals", "0,1s,6h,1d,7d",
    )  # fmt: skip
    curves = found["curves"]
    assert set(curves) == {"mood", "quality", ALL}
    auc = [point["fresh"]["auc"]["mean"] for point in curves["mood"]]
    assert auc[0] == pytest.approx(auc[1], abs=0.002)
    assert auc[1] > auc[2] > auc[3] > auc[4] - 0.01
    assert curves["mood"][3]["lost_fresh"]["auc"]["high"] < -0.05
    assert [p["changed"] for p in curves["quality"]] == [0.0] * 5
    assert [p["lost_fresh"]["auc"]["mean"] for p in curves["quality"]] == [0.0] * 5
    changed = [point["changed"] for point in curves["mood"]]
    assert changed[0] == 0 < changed[2] < changed[3] <= changed[4]
    assert changed[2] == pytest.approx(5 / 6, abs=0.04)  # refreshed in the last of six hours
    assert found["ages"]["mood"]["younger"]["1d"] == 1
    assert found["ages"]["quality"]["younger"]["7d"] == 0
    page = Path(found["page"]).read_text()
    assert "How fresh must the features of clicks be?" in page
    assert page.count("<svg") == 6


def test_training_on_what_is_served_is_judged_beside(moody):
    """Every point also tells of a ranker that was trained on rows as stale as those scored, which
    cannot bring back the mood; a curve without a view is refused."""
    subject = ServiceSubject(
        moody.folder,
        declared_rankers(moody.folder)["clicks"],
        moody.labels,
        settings=TrainSettings(seeds=2, quick=True),
    )
    found = freshness_curve(subject, ["mood"], intervals=[timedelta(days=1)], retrain=True)
    first, last = found.curves["mood"]
    assert (first.interval, last.interval) == ("0", "1d")
    assert last.stale is not None
    assert last.gained is not None
    assert last.gained["auc"]["high"] > -0.02
    assert last.lost_stale["auc"]["high"] < 0
    with pytest.raises(InputError, match="has no point"):
        freshness_curve(subject, [], intervals=[])


def test_a_manifest_keeps_the_schedules(moody):
    """`adc train --refresh` joins by them and says so; `adc evaluate` takes its own."""
    base = ("--repo", moody.folder, "--labels", moody.labels)
    fresh = adc("train", *base, "--quick")
    trained = adc("train", *base, "--quick", "--refresh", "mood=1d@03:00+20m")
    manifest = read_manifest(Workspace(moody.folder, "clicks").newest(), verify=False)
    assert manifest["facts"]["refresh"] == {
        "mood": {"schedule": "1d@03:00+20m", "rule": "1d@03:00+20m", "mean_age_seconds": 44_400.0}
    }
    told = trained["about"]["clicks"]["refresh"]
    assert told["train"] == told["judged"] == manifest["facts"]["refresh"]

    def auc(found: dict) -> float:
        return found["tasks"]["click"]["rankers"]["clicks"]["auc"]["mean"]

    assert "mood as refreshed 1d@03:00+20m" in Path(trained["report"]).read_text()
    assert "what would have been online: mood 1d@03:00+20m" in scores_text(trained)
    assert auc(fresh) > auc(trained) + 0.05
    again = adc("evaluate", *base, "--refresh", "mood=1d@03:00+20m")
    assert auc(again) == pytest.approx(auc(trained), abs=1e-9)
    assert adc("evaluate", *base)["about"]["clicks"]["refresh"]["judged"] == {}


def test_the_repository_is_the_default(tmp_path):
    """What feature_store.yaml says is joined by, unless something else is asked for."""
    moody = moody_world(tmp_path / "moody", rows=1_000)
    declare(moody.folder, {"mood": "1d", "elsewhere": "1h"})
    ranker = declared_rankers(moody.folder)["clicks"]
    joined = join_labels(moody.folder, ranker, moody.labels)
    asked = join_labels(moody.folder, ranker, moody.labels, refresh={"mood": "1d"})
    fresh = join_labels(moody.folder, ranker, moody.labels, refresh={"mood": "0"})
    assert {view: str(s) for view, s in joined.refresh.items()} == {"mood": "1d"}
    assert joined.table.equals(asked.table)
    assert not joined.table.equals(fresh.table)
    assert fresh.refresh == {}
    with pytest.raises(InputError, match=r"\['moods'\], which are no views"):
        join_labels(moody.folder, ranker, moody.labels, refresh={"moods": "1d"})


def test_wrong_options_are_refused_before_any_work(moody):
    """No schedule, an unknown view, an unknown ranker: in words, exit code 1."""
    base = ("--repo", moody.folder, "--labels", moody.labels)
    for words, told in (
        (("train", *base, "--refresh", "mood=nightly"), "is no duration"),
        (("evaluate", *base, "--refresh", "mood"), "is not VIEW=SCHEDULE"),
        (("freshness", *base, "--view", "moods"), "which are no views"),
        (("freshness", *base, "--ranker", "likes"), "declares the rankers"),
        (("freshness", *base, "--intervals", "1x"), "is no duration"),
    ):
        done = CliRunner().invoke(application(), list(map(str, words)))
        assert isinstance(done.exception, InputError)
        assert told in str(done.exception)


def test_doctor_warns_of_what_is_staler_online(tmp_path):
    """Nightly refreshes on record, a ranker of fresh rows: a warning that says what to do; none
    once it is trained on what is served, or while too few refreshes are known."""
    moody = moody_world(tmp_path / "moody", rows=1_000)
    base = ("--repo", moody.folder, "--labels", moody.labels, "--quick")
    adc("train", *base)

    def warnings() -> list[str]:
        found = checkup(moody.folder)
        assert [str(one) for one in found if one.level == "error"] == []
        return [str(one) for one in found if one.level == "warning"]

    nights = [START + timedelta(days=n, hours=3) for n in range(4)]
    for cut in nights[:2]:
        note_refresh(moody.folder, "mood", cut=cut, visible=cut + timedelta(minutes=20))
    assert warnings() == []
    for cut in nights[2:]:
        note_refresh(moody.folder, "mood", cut=cut, visible=cut + timedelta(minutes=20))
    (warning,) = warnings()
    assert "view mood is refreshed online as 1d@03:00+20m (12h20m old on average)" in warning
    assert "trained on rows that read it fresh" in warning
    assert "adc train --refresh mood=1d@03:00+20m" in warning
    adc("train", *base, "--refresh", "mood=1d@03:00+20m")
    assert warnings() == []
    declare(moody.folder, {"mood": "1h"})
    (warning,) = warnings()
    assert "feature_store.yaml says that view mood is refreshed as 1h (30m old on" in warning
