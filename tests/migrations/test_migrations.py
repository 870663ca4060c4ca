"""`adc migrate`: what it does, that a kill leaves a readable run, and whom it waits for."""

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from before_formats import DOCUMENTS, adc, answers, unpacked
from typer.testing import CliRunner

from adc_features.artifact import MANIFEST, checked, read_manifest, with_check
from adc_features.catalog import catalog_to_read, open_catalog, undisturbed
from adc_features.cli.main import application
from adc_features.codes.generation import open_generation
from adc_features.data.dataset import read_dataset
from adc_features.errors import ArtifactError, InputError
from adc_features.formats import FORMATS
from adc_features.pipeline.migrations import migrate, plan
from adc_features.pipeline.run import Run, RunSettings
from adc_features.ranking.trained import load_trained
from adc_features.serving.promotion import read_promotion
from adc_features.store.online_record import loaded
from adc_features.store.repository import live_generations, publication_manifest, statistics_path

REPO = "feature_repo"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return unpacked(tmp_path)


def content(run: Path) -> dict[str, object]:
    """The documents without their numbers and checks."""
    found = {}
    for kind, path in DOCUMENTS.items():
        document = json.loads((run / path).read_text())
        found[kind] = {k: v for k, v in document.items() if k not in ("format", "check")}
    return found


def numbers(run: Path) -> list[int]:
    """The format of each document, in the order in which they are migrated."""
    return [json.loads((run / path).read_text()).get("format", 0) for path in DOCUMENTS.values()]


def sealed(run: Path) -> dict[str, bytes]:
    """Every manifest of the run, to the byte."""
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob(MANIFEST)}


def test_everything_old_is_listed_migrated_once_and_recorded(run):
    """`adc migrate` gives every document its number and keeps its content; the second time it does
    nothing. What a manifest seals keeps its bytes, so hashes that name it stay valid.
    """
    before, manifests = content(run), sealed(run)
    assert [s.kind for s in plan(run, registry=False)] == list(DOCUMENTS)
    done = adc("migrate", run)["migrated"]
    assert [(s["kind"], s["found"], s["becomes"]) for s in done[:-1]] == [
        (kind, 0, FORMATS[kind]) for kind in DOCUMENTS
    ]
    assert done[-1]["kind"] == "registry"  # of another place: the run was moved
    assert (numbers(run), content(run), sealed(run)) == (
        [FORMATS[kind] for kind in DOCUMENTS],
        before,
        manifests,
    )
    told = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [e["kind"] for e in told if e["event"] == "migrate"] == [s["kind"] for s in done]
    assert adc("migrate", run)["migrated"] == []
    said = CliRunner().invoke(application(), ["migrate", str(run)], catch_exceptions=False)
    assert said.stdout.startswith("nothing to migrate")


def test_a_promotion_with_a_check_gets_its_number_and_a_new_check(run):
    """A promotion of format 1 carries a check of its own content; it is read after a migration."""
    path = run / "promotion.json"
    pair, document = read_promotion(path), json.loads(path.read_text())
    path.write_text(json.dumps(with_check({**document, "format": 1})))
    assert read_promotion(path) == pair
    (step,) = (s for s in migrate(run) if s.kind == "promotion")
    assert (step.found, step.becomes) == (1, 2)
    assert "check" in json.loads(path.read_text())
    assert read_promotion(path) == pair


def test_a_repository_alone_is_migrated(run):
    """A Feast repository without its run, as on a serving host, is migrated by itself."""
    repo = run.rename(run.parent / "gone") / REPO
    assert [s.kind for s in migrate(repo)] == ["live_generations", "online_record", "registry"]
    assert migrate(repo) == []


def test_what_was_written_today_has_nothing_to_migrate(tmp_path):
    """A new run carries its number, and opening an old one does not rewrite it."""
    Run.start(tmp_path / "new", RunSettings("synthetic"))
    assert json.loads((tmp_path / "new" / "run.json").read_text())["format"] == FORMATS["run"]
    assert plan(tmp_path / "new") == []
    old = unpacked(tmp_path / "old")
    Run.open(old)
    assert numbers(old)[0] == 0
    Run.open(old, seed=3)
    assert numbers(old)[0] == FORMATS["run"]


def test_other_directories_are_refused(tmp_path):
    """A directory that is no run and no repository is refused, with what to give."""
    with pytest.raises(InputError, match=r"holds no run\.json and no feature_store\.yaml; give"):
        migrate(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from adc_features.pipeline import migrations
import adc_features.store as store
wanted = sys.argv[2]
real = os.replace
def replace(source, target, **rest):
    if os.fspath(target).endswith(wanted):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(source, target, **rest)
os.replace = replace
if wanted == "registry":
    store.apply = lambda repo: os.kill(os.getpid(), signal.SIGKILL)
migrations.migrate(Path(sys.argv[1]))
"""


@pytest.mark.slow  # kills a command, one process each
@pytest.mark.parametrize(
    ("killed_at", "left"),
    [
        ("run.json", [0, 0, 0, 0]),
        ("live_generations.json", [1, 2, 0, 0]),
        ("registry", [1, 2, 1, 1]),
    ],
)
def test_a_killed_migration_leaves_what_is_read_and_the_next_one_ends_it(run, killed_at, left):
    """kill -9 just before a document is replaced leaves the old one whole; the run answers as
    before, and the next migration does the rest.
    """
    before, old = content(run), answers(run)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(run), killed_at],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert (numbers(run), content(run)) == (left, before)
    assert adc("lookup", *old["items"], "--run", run) == old["lookup"]
    assert read_promotion(run / "promotion.json").generation == "g1"
    rest = migrate(run)
    assert [s.kind for s in rest] == [*list(DOCUMENTS)[sum(n > 0 for n in left) :], "registry"]
    assert (numbers(run), content(run)) == ([1, 2, 1, 1], before)
    assert migrate(run) == []


@contextmanager
def publishing(repo: Path) -> Iterator[None]:
    """Hold the lock that `publish` holds: of the system, on the repository's data directory."""
    descriptor = os.open(repo / "data", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


def test_nothing_is_migrated_while_another_command_works_there(run):
    """A build, a publication and a retraining of the run are each named, and nothing is changed."""
    opened, catalog = Run.open(run), f"sqlite:///{run}/catalog.db"
    for held, words in (
        (opened.lock, "another process is building stages"),
        (lambda: publishing(run / REPO), "another process is publishing"),
        (lambda: open_catalog(catalog).alone("retrain"), "holds the catalogue's 'retrain' lock"),
        (lambda: open_catalog(catalog).alone("deploy"), "holds the catalogue's 'deploy' lock"),
    ):
        with held(), pytest.raises(InputError, match=words):
            migrate(run)
        assert numbers(run) == [0, 0, 0, 0]
    others = open_catalog(catalog)
    with (
        undisturbed(catalog),
        pytest.raises(InputError, match="'gc' lock"),
        others.alone("gc"),
    ):
        pass


def test_a_catalogue_before_its_first_revision_is_brought_up_to_date(run):
    """It comes first, in one transaction; while another program writes the database nothing at all
    is migrated.
    """
    (run / "catalog.db").unlink()
    with closing(sqlite3.connect(run / "catalog.db")) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match="is held by another writer"):
            migrate(run)
        assert numbers(run) == [0, 0, 0, 0]
        other.rollback()
    done = migrate(run)
    assert (done[0].kind, done[0].found) == ("catalogue", "none")
    with catalog_to_read(f"sqlite:///{run}/catalog.db") as catalog:
        assert catalog.rankers() == []


def test_a_newer_catalogue_is_refused_before_anything_is_changed(run):
    """Its revision is named, and every document stays as it was."""
    with closing(sqlite3.connect(run / "catalog.db")) as other, other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ArtifactError, match=r"has revision 9999.*a newer version"):
        migrate(run)
    assert numbers(run) == [0, 0, 0, 0]


def newer(path: Path) -> None:
    """Make a document one of a format that does not exist yet."""
    document = json.loads(path.read_text())
    with_number = {**{k: v for k, v in document.items() if k != "check"}, "format": 99}
    path.write_text(json.dumps(with_check(with_number) if "check" in document else with_number))


READERS = {
    "run.json": Run.open,
    "promotion.json": lambda run: read_promotion(run / "promotion.json"),
    "feature_repo/data/live_generations.json": lambda run: live_generations(run / REPO),
    "feature_repo/data/online.json": lambda run: loaded(run / REPO),
    "data/manifest.json": lambda run: Run.open(run).facts("data"),
    "data/dataset/manifest.json": lambda run: read_dataset(run / "data" / "dataset"),
    "generation/generation/manifest.json": lambda run: open_generation(
        run / "generation" / "generation"
    ),
    "ranker_no_sid/model/manifest.json": lambda run: load_trained(
        run / "ranker_no_sid" / "model", generation=None
    ),
    "feature_repo/data/item_sid_g1/manifest.json": lambda run: publication_manifest(
        run / REPO / "data" / "item_sid_g1"
    ),
    "feature_repo/data/statistics/manifest.json": lambda run: read_manifest(
        statistics_path(run / REPO)
    ),
}


@pytest.mark.parametrize("path", READERS)
def test_what_a_newer_version_made_is_refused_in_words(run, path):
    """Every reader names the file and both formats, and says what to do."""
    READERS[path](run)
    newer(run / path)
    words = r"format 99, this version reads up to [12]:.*a newer version of this library; upgrade"
    with pytest.raises(ArtifactError, match=words):
        READERS[path](run)


@pytest.mark.parametrize("number", ["two", -1, 1.5, True])
def test_a_number_that_is_none_is_refused(run, number):
    """A format that is no whole number means that the document was altered."""
    path = run / "data" / MANIFEST
    document = checked(json.loads(path.read_text()), path)
    path.write_text(json.dumps(with_check({**document, "format": number})))
    with pytest.raises(ArtifactError, match="expected a whole number: it was altered"):
        read_manifest(run / "data")


ROWS = {
    "run": "Run",
    "dataset": "Data set",
    "stage": "Stage, snapshot, comparison, retraining",
    "generation": "Generation",
    "publication": "Published codes",
    "statistics": "Published statistics",
    "live_generations": "List of live generations",
    "online_record": "Record of what is online",
    "refresh_log": "Line of the log of refreshes",
    "ranker": "Ranker of a run",
    "service_ranker": "Ranker of a feature service",
    "inputs": "Inputs of a ranker",
    "promotion": "Promotion",
    "served_log": "Segment of a served log",
    "live": "Live directory, events and items",
    "embedded_items": "Text vectors of items in files",
    "encoded_items": "Codes encoded from files",
    "stored_versions": "List of versions at an address",
}
"""Kind of document -> the row of docs/migrations.md about it."""


def test_the_page_lists_the_number_of_everything_that_has_one():
    """Each kind has a row with the format that this version writes."""
    page = Path(__file__).parents[2] / "docs" / "migrations.md"
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    written = {row[0]: row[2] for row in cells if len(row) == 4}
    assert {kind: written.get(name) for kind, name in ROWS.items()} == {
        kind: str(number) for kind, number in FORMATS.items()
    }
