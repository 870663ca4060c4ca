"""What a run deploys: promotion, rollback, clean-up and retraining through the command line, on a
small shop.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from adc_features.artifact import MANIFEST, read_manifest
from adc_features.cli.main import application
from adc_features.errors import ArtifactError, InputError
from adc_features.pipeline.run import Run, RunSettings
from adc_features.pipeline.snapshots import renew, snapshot
from adc_features.pipeline.stages import STAGES, dataset_of, repository_of, serving_time, split_of
from adc_features.ranking.trained import load_trained
from adc_features.serving.opening import open_bundle
from adc_features.serving.promotion import PROMOTION, read_promotion
from adc_features.store import live_generations, materialize, materialized_through
from training.deployment import promotions
from training.deployment.cleanup import collect
from training.deployment.inventory import problems
from training.deployment.record import catalog_of, sync
from training.deployment.retrain import retrain
from training.deployment.settings import RetrainSettings
from training.deployment.tracking import track
from training.stages import DATASET, RANKERS

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two rankers on codes, of which codes_weights was promoted."""
    place = tmp_path_factory.mktemp("deployment")
    adc(
        "data",
        "synthetic",
        "--out",
        str(place / "shop"),
        "--items",
        "150",
        "--users",
        "150",
        "--interactions",
        "4000",
    )
    run = Run.start(
        place / "run",
        RunSettings(source=str(place / "shop"), snapshots=2, codebook_size=8, steps=80, seeds=1),
    )
    for stage in (*STAGES, DATASET, RANKERS["codes"], RANKERS["codes_weights"]):
        run.ensure(stage)
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of it to work on, declared where it lies."""
    from adc_features.store import apply

    work = Path(shutil.copytree(made, tmp_path / "work"))
    apply(work / "run" / "feature_repo")
    return work / "run"


def adc(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(application(), [*words])
    assert result.exit_code == code, result.output or result.exception
    return result


def answer(*words: str, code: int = 0) -> Any:
    done = adc(*words, "--json", "-", code=code)
    assert "{" in done.stdout, done.exception
    return json.loads(done.stdout[done.stdout.index("{") :])


def states(place: Path) -> list[str]:
    return [p["state"] for p in answer("versions", "--run", str(place))["promotions"]]


def retrained(place: Path, *words: str, code: int = 0) -> Any:
    return answer(
        "retrain",
        "--run",
        str(place),
        "--min-rows",
        "20",
        "--window-days",
        "20",
        "--max-loss",
        "1",
        *words,
        code=code,
    )


# ---- promote and roll back


def test_an_evaluation_is_of_what_is_trained_and_promote_takes_the_best_of_it(place):
    """`adc evaluate` scores the two recipes that there are; `adc promote` without a name then says
    which it took, by the validation window, and why. An unscored run has its default alone.
    """
    unscored = answer("promote", "--run", str(place))
    assert unscored["recipe"] == "codes_weights"
    assert "never scored" in unscored["why"]
    scores = answer("evaluate", "--run", str(place))
    assert list(scores["recipes"]) == ["codes", "codes_weights"]
    taken = answer("promote", "--run", str(place))
    assert taken["why"].startswith("validation gauc: codes ")
    means = {name: scores["recipes"][name]["gauc"]["mean"] for name in scores["recipes"]}
    best, interval = (
        max(means, key=means.get),
        scores["paired"]["codes_weights_minus_codes"]["gauc"],
    )
    sure = not interval["low"] <= 0 <= interval["high"]
    assert taken["recipe"] == (best if sure else "codes")
    assert f"ranker_{taken['recipe']}/model" in taken["ranker"]
    assert answer("promote", "--run", str(place), "--recipe", "codes")["why"] == "named"


@pytest.mark.slow
def test_scores_that_are_older_than_a_ranker_choose_nothing(place):
    """After a ranker was trained anew, the run has to be scored again, or the recipe be named."""
    answer("evaluate", "--run", str(place))
    shutil.rmtree(place / "ranker_codes")
    answer("train", "--run", str(place), "--recipe", "codes", "--seeds", "2")
    refused = adc("promote", "--run", str(place), code=1).exception
    assert "score it again, `adc evaluate --run" in str(refused)
    assert list(answer("evaluate", "--run", str(place))["recipes"]) == ["codes"]


@pytest.mark.slow
def test_a_run_of_some_recipes_trains_and_reports_these(place):
    """`adc run --recipe` builds what they need, and metrics and page are of them; the rest is
    reused."""
    done = answer("run", "--run", str(place), "--recipe", "codes_weights", "--recipe", "codes")
    assert list(done["recipes"]) == ["codes", "codes_weights"]
    assert done["built"] == ["parity", "scores"]
    assert "ranker_no_sid" not in done["stage_seconds"]
    assert (place / "report.html").is_file()
    refused = adc("run", "--run", str(place), "--recipe", "code", code=1).exception
    assert "there is no recipe 'code'; choose from no_sid" in str(refused)


def test_what_was_made_is_on_record_without_anybody_registering_it(place):
    """Generation, snapshots and rankers of a run appear in `adc versions`; asking twice records
    nothing twice.
    """
    first = answer("versions", "--run", str(place))
    assert [(g["id"], g["state"], g["snapshots"]) for g in first["generations"]] == [
        ("g1", "live", 3)
    ]
    assert {(r["recipe"], r["generation"], r["state"]) for r in first["rankers"]} == {
        ("codes", "g1", "ready"),
        ("codes_weights", "g1", "ready"),
    }
    events = len(catalog_of(Run.open(place)).events())
    assert answer("versions", "--run", str(place)) == first
    assert len(catalog_of(Run.open(place)).events()) == events


def test_a_rollback_serves_what_served_before(place):
    """The pointer names the earlier pair again, under a new number; a second rollback goes back to
    the later one.
    """
    adc("promote", "--run", str(place), "--recipe", "codes")
    before = read_promotion(place / PROMOTION)
    adc("promote", "--run", str(place))
    later = read_promotion(place / PROMOTION)
    assert answer("rollback", "--run", str(place))["to"] == 1
    assert replace(read_promotion(place / PROMOTION), promoted_at=AT) == replace(
        before, promoted_at=AT
    )
    assert states(place) == ["retired", "retired", "serving"]
    adc("rollback", "--run", str(place), "--to", "2")
    assert read_promotion(place / PROMOTION).ranker == later.ranker


def test_without_an_earlier_promotion_there_is_nothing_to_roll_back_to(place):
    """A run that promoted nothing, or one ranker only, says so and serves on."""
    assert "promoted nothing" in str(adc("rollback", "--run", str(place), code=1).exception)
    adc("promote", "--run", str(place))
    adc("promote", "--run", str(place))
    assert "before number 2 is not there" in str(
        adc("rollback", "--run", str(place), code=1).exception
    )


def test_a_promotion_that_was_killed_before_the_pointer_never_happened(place, monkeypatch):
    """The record says begun; the pointer still names the old pair, so the next command records it
    as abandoned.
    """
    adc("promote", "--run", str(place))
    monkeypatch.setattr(promotions, "promote", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    CliRunner().invoke(application(), ["promote", "--run", str(place), "--recipe", "codes"])
    monkeypatch.undo()
    assert problems(Run.open(place), catalog_of(Run.open(place))) == []
    assert states(place) == ["serving", "abandoned"]
    adc("doctor", str(place))


def test_a_promotion_that_was_killed_after_the_pointer_holds(place, monkeypatch):
    """The pointer is the truth: the next command records what it names as serving."""
    real, calls = promotions.sync, []

    def killed_at_the_second(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args, **kwargs)

    monkeypatch.setattr(promotions, "sync", killed_at_the_second)
    CliRunner().invoke(application(), ["promote", "--run", str(place)])
    monkeypatch.undo()
    assert states(place) == ["serving"]


def damaged(path: Path, name: str) -> None:
    """One kind of damage to a promotion file."""
    facts = json.loads(path.read_text())
    texts = {
        "empty": b"",
        "cut short": path.read_bytes()[:40],
        "no text": b"\xff\xfe\x00",
        "a list": b"[]",
        "null": b"null",
        "nested": b"[" * 100_000,
        "a part missing": json.dumps({k: v for k, v in facts.items() if k != "ranker"}).encode(),
        "a part too many": json.dumps({**facts, "extra": 1}).encode(),
    }
    values = {
        "ranker": [5, None, "a\0b", "x" * 5000],
        "ranker_hash": [5, None, []],
        "generation": [5, "../x"],
        "codebook_hash": [5],
    }
    values |= {
        "promoted_at": [5, "yesterday", "2024-01-01T00:00:00"],
        "repository": [{}],
        "known_as": [["g1"]],
    }
    texts |= {
        f"{k} {v!r:.22}": json.dumps({**facts, k: v}).encode()
        for k, several in values.items()
        for v in several
    }
    if name in texts:
        path.write_bytes(texts[name])
        return
    path.unlink()
    if name == "a directory":
        (path / "held").mkdir(parents=True)
    else:
        path.symlink_to({"a link to nothing": "nowhere", "a link to itself": path.name}[name])


DAMAGES = [
    "empty",
    "cut short",
    "no text",
    "a list",
    "null",
    "nested",
    "a part missing",
    "a part too many",
    "ranker 5",
    "ranker None",
    "ranker 'a\\x00b'",
]
DAMAGES += [
    f"ranker {'x' * 5000!r:.22}",
    "ranker_hash 5",
    "ranker_hash None",
    "ranker_hash []",
    "generation 5",
    "generation '../x'",
    "codebook_hash 5",
]
DAMAGES += [
    "promoted_at 5",
    "promoted_at 'yesterday'",
    "promoted_at '2024-01-01T00:00:00'",
    "repository {}",
    "known_as ['g1']",
]
DAMAGES += ["a directory", "a link to nothing", "a link to itself"]


@pytest.mark.slow  # promotes many times
def test_a_promotion_file_that_is_damaged_in_any_way_is_repaired_by_promoting(place):
    """Doctor and the commands that read it name the command that repairs it; that command does, and
    the history goes on.
    """
    adc("promote", "--run", str(place), "--recipe", "codes")
    for number, damage in enumerate(DAMAGES, start=2):
        damaged(place / PROMOTION, damage)
        assert len(problems(Run.open(place), catalog_of(Run.open(place)))) == 1, damage
        # a promotion that is well written, of a ranker that is gone
        if not damage.startswith("ranker 'xxx"):
            with pytest.raises(ArtifactError, match="adc promote --run"):
                sync(Run.open(place), catalog_of(Run.open(place)), at=AT)
        # the form that looks the ranker up, too
        words = ("--generation", "g1") if number % 2 else ()
        assert answer("promote", "--run", str(place), *words)["number"] == number, damage
    assert states(place) == ["retired"] * len(DAMAGES) + ["serving"]
    assert read_promotion(place / PROMOTION).ranker.parent.name == "ranker_codes_weights"
    adc("doctor", str(place))
    assert answer("rollback", "--run", str(place))["to"] == 1


def test_a_lost_catalogue_is_made_again_from_what_is_there(place):
    """Deleting the database loses history, not the deployment."""
    adc("promote", "--run", str(place))
    for file in place.glob("catalog.db*"):
        file.unlink()
    assert states(place) == ["serving"]


def test_a_generation_that_was_edited_by_hand_is_found(place):
    """`adc doctor` names the file; the pair that rests on a rewritten ranker is not promoted."""
    adc("promote", "--run", str(place))
    (place / "generation" / "generation" / "quality.json").write_text("{}")
    found = adc("doctor", str(place), code=1).output
    assert "generation g1" in found
    assert "quality.json has sha256" in found


def test_a_manifest_emptied_of_its_files_is_found(place):
    """Of a publication, statistics, a generation, a ranker: doctor names it, and readers refuse it
    rather than read what nobody checked.
    """
    from adc_features.store import published_snapshots, published_timeline

    for where in (
        "feature_repo/data/item_sid_g1",
        "feature_repo/data/statistics",
        "generation/generation",
        "ranker_codes/model",
    ):
        manifest = place / where / MANIFEST
        whole = manifest.read_text()
        facts = read_manifest(place / where)  # without its check, as versions before had none
        for files in ({}, dict(list(facts["files"].items())[:1])):
            manifest.write_text(json.dumps({**facts, "files": files}))
            if not (files and where.startswith("ranker")):
                assert str(place / where) in adc("doctor", str(place), code=1).output, where
        if "item_sid" in where:
            for read in (published_snapshots, published_timeline):
                with pytest.raises(ArtifactError, match="does not name"):
                    read(place / "feature_repo", "g1")
        manifest.write_text(whole)
    adc("promote", "--run", str(place))
    adc("doctor", str(place))


def test_a_ranker_that_was_deleted_is_off_the_record_and_not_served_again(place):
    """Its promotion stays in the history, a rollback to it is refused."""
    adc("promote", "--run", str(place), "--recipe", "codes")
    adc("promote", "--run", str(place))
    shutil.rmtree(place / "ranker_codes")
    assert "0 rankers begin with" in str(adc("rollback", "--run", str(place), code=1).exception)
    assert states(place) == ["retired", "serving"]


@pytest.mark.slow  # fits generations
def test_two_lines_of_codes_are_never_mixed(place):
    """A later generation of the same line may serve an older ranker; one that was fitted anew is
    refused.
    """
    run = Run.open(place)
    snapshot(run, split_of(run).train_end + timedelta(days=15))
    renew(run, "g2")
    renew(run, "g3", warm=False)
    adc("promote", "--run", str(place), "--generation", "g2")
    pair = read_promotion(place / PROMOTION)
    assert (pair.generation, pair.known_as) == ("g2", "g1")
    materialize(repository_of(run), now=split_of(run).eval_end)
    assert open_bundle(pair).live.id == "g2"  # which scores once
    assert "is not of its line" in str(
        adc("promote", "--run", str(place), "--generation", "g3", code=1).exception
    )
    assert read_promotion(place / PROMOTION) == pair


# ---- clean up


def retraining(number: int) -> str:
    """A name such as `adc retrain` gives."""
    return f"20240101T000000_{number:08x}"


def copied_ranker(place: Path, name: str) -> None:
    """A ranker as `adc retrain` leaves one, of another hash than any."""
    target = place / "retrains" / name / "ranker"
    shutil.copytree(place / "ranker_codes_weights" / "model", target / "model")
    manifest = read_manifest(target / "model") | {"copy": name}
    (target / "model" / MANIFEST).write_text(json.dumps(manifest))
    (target / MANIFEST).write_text(
        json.dumps({"facts": {"trained_through": "2024-01-01T00:00:00+00:00"}, "files": {}})
    )


def test_clean_up_keeps_what_serves_and_what_it_would_roll_back_to(place):
    """Of three retrained rankers the serving one and the one before stay, and a rollback finds the
    latter.
    """
    run = Run.open(place)
    made: list[str] = []
    for n in range(3):
        copied_ranker(place, retraining(n))
        record = catalog_of(run)
        sync(run, record, at=AT + timedelta(days=n))
        made.append(
            next(
                r
                for r in record.rankers()
                if r["directory"] == f"retrains/{retraining(n)}/ranker/model"
            )["hash"]
        )
        adc("promote", "--run", str(place), "--ranker", made[-1])
    dry = answer("gc", "--run", str(place), "--dry-run")
    assert (dry["rankers"], dry["generations"]) == ([f"retrains/{retraining(0)}/ranker/model"], [])
    adc("gc", "--run", str(place))
    assert [d.name for d in sorted((place / "retrains").iterdir())] == [
        retraining(1),
        retraining(2),
    ]
    assert answer("rollback", "--run", str(place))["pair"].endswith(made[1][:12])


@pytest.mark.slow  # fits a generation
def test_a_generation_that_nothing_needs_goes_from_feast_first(place):
    """What was unpublished is not live, has no directory, and the run's own generation still
    serves.
    """
    run = Run.open(place)
    snapshot(run, split_of(run).train_end + timedelta(days=10))
    renew(run, "g2", warm=False)
    snapshot(run, split_of(run).train_end + timedelta(days=15))
    renew(run, "g3", warm=False)
    adc("promote", "--run", str(place))
    assert answer("gc", "--run", str(place))["generations"] == ["g2"]
    assert [g.id for g in live_generations(repository_of(run))] == ["g1", "g3"]
    assert not (place / "generations" / "g2").exists()
    assert [
        g["state"]
        for g in answer("versions", "--run", str(place))["generations"]
        if g["id"] == "g2"
    ] == ["removed"]
    adc("doctor", str(place))


@pytest.mark.slow  # kills the command at each of its deletions
def test_a_clean_up_killed_at_any_deletion_is_ended_by_the_next(place, tmp_path):
    """After a kill at every third file that it deletes, the doctor finds no problem, and the next
    call leaves what an uninterrupted one leaves.
    """
    run = Run.open(place)
    for n, days in enumerate((10, 15)):
        snapshot(run, split_of(run).train_end + timedelta(days=days))
        renew(run, f"g{n + 2}", warm=False)
        copied_ranker(place, retraining(n))
        adc("promote", "--run", str(place), "--recipe", "codes")
        adc("promote", "--run", str(place))
        sync(run, catalog_of(run), at=AT + timedelta(days=n))
    sync(run, catalog_of(run), at=AT)
    ends, killed = [], 0
    while True:
        work = Run.open(Path(shutil.copytree(place, tmp_path / f"killed{killed}")))
        if not killed_at_deletion(killed, lambda work=work: collect(work, catalog_of(work), at=AT)):
            break
        record = catalog_of(work)
        assert problems(work, record) == []
        collect(work, record, at=AT)
        ends.append(left_of(work))
        killed += 3
    assert len(ends) >= 5
    assert all(end == left_of(work) for end in ends)


def test_nothing_is_deleted_under_a_retrain_and_nothing_promoted_under_a_clean_up(
    place, monkeypatch
):
    """Each is told to wait; what serves stays."""
    adc("promote", "--run", str(place))
    before = (place / PROMOTION).read_bytes()
    record = catalog_of(Run.open(place))
    with record.alone("retrain"):
        assert "'retrain' lock" in str(adc("gc", "--run", str(place), code=1).exception)
    monkeypatch.setattr(promotions, "WAIT", 0.0)
    with record.alone("deploy"):
        assert "'deploy' lock" in str(
            adc("promote", "--run", str(place), "--recipe", "codes", code=1).exception
        )
    assert (place / PROMOTION).read_bytes() == before
    assert states(place) == ["serving"]


def test_a_lost_repository_is_no_reason_to_delete_generations(place):
    """What nobody asked to delete stays: with the Feast repository gone by hand, a clean-up leaves
    the run's own generation.
    """
    adc("versions", "--run", str(place))
    shutil.rmtree(place / "feature_repo")
    adc("gc", "--run", str(place))
    assert (place / "generation" / "generation" / MANIFEST).is_file()


def left_of(run: Run) -> tuple[list[str], list[str], list[str]]:
    """Files of generations and retrains, views, and what is live."""
    from adc_features.store import registry_problems

    files = [
        str(f.relative_to(run.directory))
        for name in ("generations", "retrains")
        for f in sorted((run.directory / name).rglob("*"))
    ]
    return (
        files,
        registry_problems(repository_of(run)),
        [g.id for g in live_generations(repository_of(run))],
    )


def killed_at_deletion(number: int, work: Callable[[], object]) -> bool:
    """Was a process with this work killed before it deleted its file or directory of this number?
    False when it ended before.
    """
    child = os.fork()
    if not child:
        left = [number]

        def hook(event: str, _: object) -> None:
            if event in ("os.remove", "os.rmdir"):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


# ---- retrain


def test_a_retrain_promotes_a_challenger_that_passes_every_gate(place):
    """It says why it trained, what it measured, serves the new pair, and asked again it does
    nothing.
    """
    adc("promote", "--run", str(place))
    champion = read_promotion(place / PROMOTION)
    first = retrained(place, "--min-gain", "-1", "--every-days", "1")
    serving = read_promotion(place / PROMOTION)
    assert (first["decision"], first["champion"], first["challenger"]) == (
        "promoted",
        champion.ranker_hash,
        serving.ranker_hash,
    )
    assert first["reasons"]["days_since_champion"]["asks"]
    assert set(first["gates"]) == {
        "gauc_gain",
        "head_auc",
        "tail_auc",
        "calibration",
        "coverage",
        "churn",
        "online_parity",
    }
    assert first["gates"]["churn"]["value"] == 0.0
    assert states(place) == ["retired", "serving"]
    again = retrained(place, "--min-gain", "-1", "--every-days", "1")
    assert (again["decision"], again["reused"]) == ("promoted", True)
    assert states(place) == ["retired", "serving"]
    adc("doctor", str(place))


@pytest.mark.slow
def test_a_store_that_is_ahead_of_the_labels_does_not_stop_a_retrain(place):
    """Features are materialized later than the window of labels ends: online is compared with
    offline as of then, and the challenger goes out.
    """
    adc("promote", "--run", str(place))
    run = Run.open(place)
    ahead = serving_time(run)
    made = retrained(
        place,
        "--as-of",
        (ahead - timedelta(days=2)).isoformat(),
        "--min-gain",
        "-1",
        "--every-days",
        "1",
    )
    assert materialized_through(repository_of(run)) == ahead
    assert (made["decision"], made["gates"]["online_parity"]["value"]) == ("promoted", 0)


def test_a_ranker_of_the_run_trains_beside_snapshots_published_since(place):
    """The run's own vectors end where its snapshots ended; later ones of the repository do not get
    in the way.
    """
    run = Run.open(place)
    snapshot(run, serving_time(run) - timedelta(days=1))
    run.ensure(RANKERS["vectors"])
    scores = np.load(run.output(RANKERS["vectors"].name) / "scores.npy")
    assert np.isfinite(scores).all()


class TrackingServer:
    """What Feast's MLflow client is asked to write."""

    def __init__(self, *, up: bool) -> None:
        self.up, self.mlflow, self.params, self.metrics, self.texts = up, self, {}, {}, {}

    @contextlib.contextmanager
    def start_run(self, run_name: str, tags: dict[str, str]) -> Iterator[Any]:
        if not self.up:
            raise ConnectionError("no answer")
        self.name, self.tags = run_name, tags
        yield SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def log_params(self, params: dict[str, Any]) -> None:
        self.params |= params

    def log_metrics(self, metrics: dict[str, float]) -> None:
        self.metrics |= metrics

    def log_text(self, text: str, name: str) -> None:
        self.texts[name] = text


@pytest.mark.slow
@pytest.mark.parametrize("up", [True, False])
def test_mlflow_hears_of_a_retrain_where_it_is_enabled_and_cannot_stop_one(place, monkeypatch, up):
    """Decision, gates and scores go through Feast's client; a server that is down changes
    nothing.
    """
    import feast

    server = TrackingServer(up=up)
    monkeypatch.setattr(feast.FeatureStore, "mlflow", server)
    config = place / "feature_repo" / "feature_store.yaml"
    config.write_text(config.read_text() + "mlflow:\n  enabled: true\n")
    adc("promote", "--run", str(place))
    made = retrained(place, "--min-gain", "-1", "--every-days", "1")
    assert made["decision"] == "promoted"
    assert states(place) == ["retired", "serving"]
    if up:
        assert server.tags["feast.feature_service"] == "ranker_g1"
        assert server.params["challenger"] == made["challenger"]
        assert {
            "gates.churn.value",
            "scores.challenger.gauc.mean",
            "reasons.new_rows.value",
        } <= set(server.metrics)
        assert json.loads(server.texts["decision.json"])["decision"] == "promoted"


def test_without_the_mlflow_block_nothing_is_asked_of_mlflow(place, monkeypatch):
    """The default: no MLflow client is made."""
    import feast

    server = TrackingServer(up=True)
    monkeypatch.setattr(feast.FeatureStore, "mlflow", server)
    assert track(place / "feature_repo", {"decision": "kept"}, service="ranker_g1") is None
    assert server.metrics == {}


def test_the_challenger_learns_from_nothing_in_the_window(place, monkeypatch):
    """Altering every label of the window leaves the challenger as it was, to the bit."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from adc_features.data.dataset import read_dataset, write_dataset

    run, shop = Run.open(place), read_dataset(place.parent / "shop")
    start = split_of(run).eval_end - timedelta(days=20)
    adc("promote", "--run", str(place))
    late = pc.greater_equal(shop.interactions["time"], pa.scalar(start))
    flipped = pc.if_else(
        late,
        pc.subtract(1.0, shop.interactions["label"].cast("float64")),
        shop.interactions["label"].cast("float64"),
    ).cast("float32")
    column = shop.interactions.column_names.index("label")
    write_dataset(
        replace(shop, interactions=shop.interactions.set_column(column, "label", flipped)),
        place.parent / "flipped",
    )
    scores = []
    for data in ("shop", "flipped"):
        words = (
            "--data",
            str(place.parent / data),
            "--as-of",
            split_of(run).eval_end.isoformat(),
            "--min-gain",
            "2",
            "--every-days",
            "1",
        )
        made = retrained(place, *words, code=10)
        model = load_trained(Path(made["directory"]) / "ranker" / "model", generation="g1")
        scores.append(next(iter(model.ranker.models.values())).tensors)
    assert scores[0].keys() == scores[1].keys()
    assert all((scores[0][name] == scores[1][name]).all() for name in scores[0])


@pytest.mark.slow
def test_a_gate_that_does_not_hold_keeps_the_champion(place):
    """Exit code 10; the pointer is as it was, the reason is in the answer and on record."""
    adc("promote", "--run", str(place))
    before = (place / PROMOTION).read_bytes()
    kept = retrained(place, "--min-gain", "0.9", "--every-days", "1", code=10)
    assert not kept["gates"]["gauc_gain"]["passed"]
    assert "online_parity" not in kept["gates"]
    assert (place / PROMOTION).read_bytes() == before
    assert [r["state"] for r in catalog_of(Run.open(place)).runs()] == ["kept"]


def test_without_a_reason_nothing_is_trained(place):
    """Exit code 10, and no challenger; --force trains one all the same."""
    adc("promote", "--run", str(place))
    kept = retrained(place, "--every-days", "1000", code=10)
    assert (kept["challenger"], kept["gates"]) == (None, {})
    assert retrained(place, "--every-days", "1001", "--force", "--min-gain", "2", code=10)[
        "challenger"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_days": 300}, "the champion learned from rows up to"),
        ({"min_rows": 100_000}, "labelled rows lie in the window"),
        ({"window_days": 35, "min_rows": 150}, "there is nothing new to learn"),
    ],
)
def test_data_that_cannot_decide_is_refused_with_the_state_unchanged(place, changes, message):
    """Too few rows, nothing new, or a window that the champion has seen."""
    adc("promote", "--run", str(place))
    run = Run.open(place)
    catalog = catalog_of(run)
    before = (place / PROMOTION).read_bytes()
    with pytest.raises(InputError, match=message):
        retrain(run, catalog, settings=RetrainSettings(**{"min_rows": 20, **changes}), at=AT)
    assert (place / PROMOTION).read_bytes() == before
    assert not list((place / "retrains").glob("*/ranker"))
    assert adc("retrain", "--run", str(place), "--window-days", "300", code=20)


@pytest.mark.slow
def test_online_values_that_differ_are_named_and_the_refusal_is_not_kept_for_good(
    place, monkeypatch
):
    """A store that was not loaded refuses the challenger, naming entity, feature and both values;
    loaded, the same command promotes it.
    """
    import adc_features.store as store

    adc("promote", "--run", str(place))
    words = ("--min-gain", "-1", "--every-days", "1")
    monkeypatch.setattr(store, "materialize", lambda *_, **__: None)
    kept = retrained(place, *words, code=10)
    assert not kept["gates"]["online_parity"]["passed"]
    first = kept["gates"]["online_parity"]["first_differences"][0]
    assert {"item_id", "feature", "offline", "online"} == set(first)
    told = adc(
        "retrain",
        "--run",
        str(place),
        "--min-rows",
        "20",
        "--window-days",
        "20",
        "--max-loss",
        "1",
        *words,
        code=10,
    ).output
    assert (
        f"item_id {first['item_id']!r}, {first['feature']}: offline {first['offline']!r}, online"
        f" {first['online']!r}" in told
    )
    assert "decided before" not in told
    monkeypatch.undo()
    made = retrained(place, *words)
    assert (made["decision"], made["reused"]) == ("promoted", False)
    assert retrained(place, *words)["reused"]


@pytest.mark.slow  # retrains several times
def test_a_verdict_is_remembered_for_what_it_depended_on_only(place):
    """Asked again, the answer is repeated; asked by force, or after another snapshot was published,
    it is decided anew.
    """
    adc("promote", "--run", str(place))
    words = ("--min-gain", "2", "--every-days", "1")
    assert not retrained(place, *words, code=10)["reused"]
    assert retrained(place, *words, code=10)["reused"]
    assert not retrained(place, *words, "--force", code=10)["reused"]
    assert retrained(place, *words, code=10)["reused"]
    run = Run.open(place)
    snapshot(run, split_of(run).eval_end - timedelta(days=3))
    assert not retrained(place, *words, code=10)["reused"]
    decision = next((place / "retrains").glob("*/decision.json"))
    decision.write_text("[]")
    assert not retrained(place, *words, code=10)["reused"]


@pytest.mark.slow  # retrains several times
def test_data_ends_where_it_was_complete_and_not_at_its_last_event(place):
    """A cut-off on the day after the last event is no later than the data, for a retraining and a
    snapshot alike; a later one asks for a word.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from adc_features.data.dataset import read_dataset, write_dataset

    adc("promote", "--run", str(place))
    shop = read_dataset(place.parent / "shop")
    times = pc.add(
        shop.interactions["time"], pa.scalar(timedelta(hours=23, minutes=10, seconds=39))
    )
    late = replace(
        shop,
        interactions=shop.interactions.set_column(
            shop.interactions.column_names.index("time"), "time", times
        ),
        resolution=timedelta(seconds=1),
    )
    midnight = late.last_known.replace(hour=0, minute=0, second=0) + timedelta(days=1)
    assert (late.end, late.last_known) == (midnight, midnight - timedelta(minutes=49, seconds=20))
    write_dataset(late, place.parent / "late")
    data, kept = ("--data", str(place.parent / "late")), ("--min-gain", "2", "--every-days", "1")
    day, later = f"{midnight:%Y-%m-%d}", f"{midnight + timedelta(days=2):%Y-%m-%d}"
    assert (
        retrained(place, *data, *kept, "--as-of", day, code=10)["window"]["end"]
        == midnight.isoformat()
    )
    assert (
        answer("snapshot", "--run", str(place), *data, "--as-of", day)["as_of"]
        == midnight.isoformat()
    )
    said = f"the data is known to be complete through {midnight.isoformat()}"
    refused = adc("retrain", "--run", str(place), *data, *kept, "--as-of", later, code=20).output
    assert said in refused
    assert "--complete-through" in refused
    assert said in str(
        adc("snapshot", "--run", str(place), *data, "--as-of", later, code=1).exception
    )
    quiet = (*data, "--as-of", later, "--complete-through", later)
    assert retrained(place, *quiet, *kept, code=10)["window"]["end"].startswith(later)
    write_dataset(
        replace(late, complete_through=midnight + timedelta(days=2)), place.parent / "late"
    )
    assert retrained(place, *data, *kept, "--as-of", later, code=10)["window"]["end"].startswith(
        later
    )


def test_two_retrains_at_once_are_refused(place):
    """The second one is told at once, with exit code 20."""
    with catalog_of(Run.open(place)).alone("retrain"):
        assert "another process holds" in adc("retrain", "--run", str(place), code=20).output


@pytest.mark.slow
def test_a_killed_retrain_goes_on_to_the_same_end(place, monkeypatch):
    """Stopped before its gates, it keeps the challenger that it trained; the record says that it
    was killed.
    """
    from training.deployment import retrain as module

    adc("promote", "--run", str(place))
    monkeypatch.setattr(
        module, "score_gates", lambda *_, **__: (_ for _ in ()).throw(SystemExit(9))
    )
    monkeypatch.setattr(module, "_end_record", lambda *_: None)
    retrained_words = (
        "retrain",
        "--run",
        str(place),
        "--min-rows",
        "20",
        "--window-days",
        "20",
        "--max-loss",
        "1",
        "--min-gain",
        "-1",
        "--every-days",
        "1",
    )
    adc(*retrained_words, code=9)
    monkeypatch.undo()
    made = next((place / "retrains").glob("*/ranker/manifest.json"))
    stamp = made.stat().st_mtime_ns
    assert answer(*retrained_words)["decision"] == "promoted"
    assert made.stat().st_mtime_ns == stamp
    assert [r["state"] for r in catalog_of(Run.open(place)).runs()] == [
        "killed",
        "promoted",
    ]


@pytest.mark.slow
def test_a_champion_that_was_replaced_meanwhile_is_not_overruled(place, monkeypatch):
    """A ranker that a person promotes while the challenger is judged keeps serving; the retraining
    says so, with exit code 20.
    """
    from training.deployment import retrain as module

    adc("promote", "--run", str(place))
    real = module._online_parity
    monkeypatch.setattr(
        module,
        "_online_parity",
        lambda task: adc("promote", "--run", str(place), "--recipe", "codes") and real(task),
    )
    words = (
        "retrain",
        "--run",
        str(place),
        "--min-rows",
        "20",
        "--window-days",
        "20",
        "--max-loss",
        "1",
        "--min-gain",
        "-1",
        "--every-days",
        "1",
    )
    assert "was promoted while the challenger" in adc(*words, code=20).output
    assert states(place) == ["retired", "serving"]


@pytest.mark.slow  # fits a generation
def test_a_new_generation_comes_in_with_a_challenger_of_its_own(place):
    """The challenger is trained on the aligned generation, starts from the champion's code
    embeddings, and serves on it; churn is weighed.
    """
    adc("promote", "--run", str(place))
    run = Run.open(place)
    snapshot(run, split_of(run).eval_end - timedelta(days=20))
    renewed = renew(run, "g2")
    made = retrained(place, "--generation", "g2", "--min-gain", "-1", "--every-days", "1")
    assert made["decision"] == "promoted"
    assert made["gates"]["churn"]["value"] == pytest.approx(renewed["changed_served"], abs=0.02)
    assert read_promotion(place / PROMOTION).generation == "g2"
    assert (
        json.loads((Path(made["directory"]) / "ranker" / MANIFEST).read_text())["facts"]["warm"]
        is True
    )


# ---- monitor


def test_traffic_like_before_is_within_its_limits_and_other_traffic_is_not(place):
    """Exit code 0 against a kept baseline of itself, 10 for impressions of one item and of items
    that nobody knows; the page says which part moved.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # a small shop drifts in a month
    CliRunner().invoke(application(), ["monitor", "--run", str(place), "--keep"])
    assert answer("monitor", "--run", str(place))["beyond"] == []
    assert (place / "monitor" / "baseline_g1.json").is_file()
    at = split_of(Run.open(place)).eval_end - timedelta(days=1)
    shown = [dataset_of(Run.open(place)).items["item_id"][0].as_py()] * 200 + [
        "nobody knows this"
    ] * 200
    pq.write_table(
        pa.table({"item_id": shown, "time": pa.array([at] * 400, pa.timestamp("us", tz="UTC"))}),
        place / "shown.parquet",
    )
    moved = answer(
        "monitor",
        "--run",
        str(place),
        "--traffic",
        str(place / "shown.parquet"),
        "--page",
        str(place / "page.html"),
        code=10,
    )
    assert {"usage", "coverage", "unknown"} <= set(moved["beyond"])
    assert moved["drift"]["unknown"]["value"] == 0.5
    assert "Drift beyond its limit" in (place / "page.html").read_text()


def test_a_broken_baseline_and_traffic_without_times_are_refused(place):
    """Each in words; nothing is written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (place / "broken.json").write_text("{}")
    assert "is not a traffic profile" in str(
        adc(
            "monitor", "--run", str(place), "--baseline", str(place / "broken.json"), code=1
        ).exception
    )
    pq.write_table(pa.table({"item_id": [1]}), place / "shown.parquet")
    assert "the traffic lacks ['time']" in str(
        adc(
            "monitor", "--run", str(place), "--traffic", str(place / "shown.parquet"), code=1
        ).exception
    )
    assert not (place / "monitor").exists()
