"""A published generation keeps its codes, and a run reads its data once. Reads: a small run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.data.dataset import write_dataset
from adc_features.data.synthetic import synthetic
from adc_features.pipeline import context
from adc_features.pipeline.run import Run, RunSettings
from adc_features.pipeline.snapshots import renew, snapshot
from adc_features.pipeline.stages import STAGES, generation_of, repository_of, split_of, timeline_of
from adc_features.store import live_generations

SETTINGS = {"snapshots": 2, "codebook_size": 8, "steps": 80}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published run of all library stages, and how often it read its data set."""
    place = tmp_path_factory.mktemp("published")
    write_dataset(
        synthetic(seed=0, items=150, users=150, interactions=2_500).dataset, place / "shop"
    )
    reads: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        read = context.read_dataset
        patch.setattr(context, "read_dataset", lambda path: reads.append(path) or read(path))
        run = Run.start(place / "run", RunSettings(str(place / "shop"), **SETTINGS))
        for stage in STAGES:
            run.ensure(stage)
    (place / "reads.json").write_text(json.dumps(len(reads)))
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "work"))


def adc(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(application(), [*map(str, words)])
    assert result.exit_code == code, result.output or result.exception
    return result


def refused(*words: object) -> str:
    return str(adc(*words, code=1).exception)


def ids(place: Path) -> list[str]:
    return sorted(g.id for g in live_generations(repository_of(Run.open(place / "run"))))


def test_a_run_reads_its_data_set_once(made: Path) -> None:
    """Seven stages ask for data set and split; the files are read and hashed once."""
    assert json.loads((made / "reads.json").read_text()) == 1


def test_the_timeline_follows_what_is_published(place: Path) -> None:
    """It is opened once, and again after a further snapshot is published."""
    run = Run.open(place / "run")
    first = timeline_of(run)
    assert timeline_of(run) is first
    snapshot(run, split_of(run).eval_end)
    assert len(timeline_of(run).snapshots) == len(first.snapshots) + 1


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (("fit", "--steps", 90), "steps"),
        (("fit", "--tokenizer", "raw_gate"), "tokenizer"),
        (("run", "--seed", 5), "seed"),
        (("run", "--behavior", "norm_rising"), "behavior"),
        (("run", "--final"), "final"),
    ],
)
def test_a_published_generation_is_not_fitted_again(
    place: Path, words: tuple[object, ...], changed: str
) -> None:
    """Other settings under a published id are refused before any work: nothing is built, the
    settings stay, and the answer names a free id.
    """
    run = place / "run"
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    said = refused(words[0], "--run", run, *words[1:])
    assert "generation 'g1' is published in" in said
    assert f"{changed} changed since it was fitted" in said
    assert "--generation g2" in said
    after = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    assert after == before


def test_other_data_is_refused_before_vectors_are_trained(place: Path) -> None:
    """A changed source is loaded, and then no hour of training begins for a fit that is refused."""
    shutil.rmtree(place / "shop")
    write_dataset(
        synthetic(seed=1, items=150, users=150, interactions=2_500).dataset, place / "shop"
    )
    run = Run.open(place / "run", source=str(place / "shop"))
    vectors = (place / "run" / "behavior" / "manifest.json").read_bytes()
    said = refused("embed", "behavior", "--run", place / "run", "--data", place / "shop")
    assert "the data changed since it was fitted" in said
    assert (place / "run" / "behavior" / "manifest.json").read_bytes() == vectors
    assert generation_of(run).id == "g1"


@pytest.mark.slow
def test_a_new_id_is_published_beside_the_old_one(place: Path) -> None:
    """Readers of g1 keep their codes when g2 is fitted in the same run; g2 in its turn stays."""
    old = generation_of(Run.open(place / "run")).codebook_hash
    adc("fit", "--run", place / "run", "--generation", "g2", "--steps", 90)
    adc("publish", "--run", place / "run")
    live = {g.id: g.codebook_hash for g in live_generations(place / "run" / "feature_repo")}
    assert live["g1"] == old
    assert live["g2"] == generation_of(Run.open(place / "run")).codebook_hash != old
    assert "--generation g3" in refused("fit", "--run", place / "run", "--steps", 95)
    assert "--generation g3" in refused("fit", "--run", place / "run", "--generation", "g1")


@pytest.mark.slow
def test_a_renewed_generation_survives_the_run_s_next_publication(place: Path) -> None:
    """`adc publish` after `adc renew` finds its own generation as it was and keeps both."""
    run = Run.open(place / "run")
    snapshot(run, split_of(run).eval_end)
    renew(run, "g2")
    adc("publish", "--run", place / "run")
    assert ids(place) == ["g1", "g2"]
    adc("publish", "--run", place / "run", "--publish-lag-hours", 5)
    assert ids(place) == ["g1", "g2"]
    assert "--generation g3" in refused("fit", "--run", place / "run", "--generation", "g2")


@pytest.mark.slow
def test_a_damaged_generation_is_fitted_again_to_the_same(place: Path) -> None:
    """Repair is no refit: the same settings and vectors give the published codes back."""
    hash_ = generation_of(Run.open(place / "run")).codebook_hash
    (place / "run" / "generation" / "generation" / "tensors.safetensors").unlink(missing_ok=True)
    shutil.rmtree(place / "run" / "generation")
    adc("fit", "--run", place / "run")
    assert generation_of(Run.open(place / "run")).codebook_hash == hash_
