"""Paths that a record, a manifest, a file or a person gives: each is refused outside its place."""

import json
import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adc_features.artifact import MANIFEST, deletable, read_manifest, seal, within
from adc_features.catalog.tables import GENERATIONS, RANKERS
from adc_features.codes.generation import generation_place
from adc_features.errors import AdcError, ArtifactError, InputError
from adc_features.pipeline.run import Run, RunSettings
from adc_features.serving.promotion import PROMOTION, read_promotion
from adc_features.store import unpublish
from adc_features.store.packed.timeline import open_timeline
from adc_features.store.repository import live_generations, publication_path
from training.comparison.plan import Variant
from training.deployment.cleanup import collect, garbage
from training.deployment.inventory import problems
from training.deployment.places import retrain_of, retrain_place
from training.deployment.record import catalog_of

AT = datetime(2026, 1, 1, tzinfo=UTC)
OURS = "retrains/20240101T000000_0123abcd"
PARTS = [
    "..",
    ".",
    "",
    "a",
    "g1",
    "victim",
    "link",
    "item_sid_g1",
    "rows",
    "ключ",
    "é",
    "a\\..\\..",
    "\0",
    "\ud800",
    "x" * 300,
]
HOSTILE = (
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("/".join)
    | st.sampled_from(
        [
            "/",
            "/tmp",
            "../victim",
            "a/../../b",
            "g1/../../../victim",
            "link/deep",
            "..\\victim",
            "\n",
            "g1\n",
        ]
    )
    | st.just("x/" * 3000)
    | st.text(max_size=20)
)


class Place:
    """A run beside a victim, with a link to it in the run and in its places."""

    def __init__(self, parent: Path) -> None:
        self.victim = parent / "victim"
        (self.victim / "deep" / "model").mkdir(parents=True)
        for name in ("precious", MANIFEST, "deep/" + MANIFEST, "deep/model/" + MANIFEST):
            (self.victim / name).write_text("{}")
        self.run = Run.start(parent / "run", RunSettings(source="synthetic"))
        self.repo = self.run.directory / "feature_repo"
        for place in ("", "generations/g1", "retrains", "feature_repo/data/item_sid_g1/rows"):
            (self.run.directory / place).mkdir(parents=True, exist_ok=True)
            (self.run.directory / place / "link").symlink_to(self.victim)
        self.catalog = catalog_of(self.run)
        self.before = self.files()

    def files(self) -> list[str]:
        return sorted(str(f.relative_to(self.victim)) for f in self.victim.rglob("*"))

    def ranker(self, directory: str) -> None:
        """A ranker on record as being removed."""
        with self.catalog.write(at=AT) as writer:
            facts = {
                "recipe": "codes",
                "generation": None,
                "trained_through": AT,
                "state": "removing",
            }
            writer.put(
                RANKERS, {"hash": "a" * 64}, {"directory": directory, **facts}, event="ranker"
            )

    def generation(self, id: str, directory: str) -> None:
        """A generation on record as being removed."""
        with self.catalog.write(at=AT) as writer:
            facts = {"codebook_hash": "c" * 64, "trained_through": AT, "state": "removing"}
            writer.put(
                GENERATIONS, {"id": id}, {"directory": directory, **facts}, event="generation"
            )

    def collect(self) -> Any:
        return collect(self.run, self.catalog, at=AT)

    def left_alone(self) -> bool:
        return self.files() == self.before


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# ---- the smallest inputs


def test_a_clean_up_deletes_nothing_outside_its_run(place):
    """A ranker that is on record as ../victim/deep/model is refused, and the garbage beside it
    stays too.
    """
    place.ranker("../victim/deep/model")
    kept = place.run.directory / "generations" / "g2"
    kept.mkdir()
    place.generation("g2", "generations/g2")
    with pytest.raises(ArtifactError, match=r"'\.\./victim/deep/model', expected retrains"):
        place.collect()
    assert place.left_alone()
    assert kept.is_dir()


@pytest.mark.parametrize(
    ("id", "directory"),
    [
        ("g2", "../victim"),
        ("g2", "generations/g1"),
        ("g1", "generation/generation"),
        ("g1", "generations/g1"),
        ("../victim", "generations/../victim"),
    ],
)
def test_a_generation_is_deleted_only_where_we_put_it(place, id, directory):
    """Another directory than its own, that of another generation,
    or the run's first one, is refused.
    """
    place.generation(id, directory)
    with pytest.raises(ArtifactError, match="nothing was"):
        place.collect()
    assert place.left_alone()


@pytest.mark.parametrize(
    "directory",
    [
        "retrains/mine/ranker/model",
        "ranker_codes/model",
        "generations/g2",
        OURS,
        f"{OURS}/../x/ranker/model",
    ],
)
def test_a_ranker_is_deleted_only_from_a_retraining(place, directory):
    """A name that `adc retrain` does not make is refused, and stays."""
    (place.run.directory / directory).mkdir(parents=True, exist_ok=True)
    place.ranker(directory)
    with pytest.raises(ArtifactError, match=r"is no path below|nothing was deleted"):
        place.collect()
    assert (place.run.directory / directory).is_dir()


@pytest.mark.parametrize("linked", ["retrains", OURS, f"{OURS}/ranker"])
def test_a_deletion_follows_no_link(place, linked):
    """A retraining behind a symbolic link, at any part of its path, is refused."""
    shutil.rmtree(place.run.directory / "retrains")
    (place.victim / "20240101T000000_0123abcd" / "ranker" / "model").mkdir(parents=True)
    (place.victim / "ranker" / "model").mkdir(parents=True)
    before = place.files()
    (place.run.directory / linked).parent.mkdir(parents=True, exist_ok=True)
    (place.run.directory / linked).symlink_to(place.victim)
    place.ranker(f"{OURS}/ranker/model")
    with pytest.raises(ArtifactError, match="symbolic link"):
        place.collect()
    assert place.files() == before


def test_a_link_inside_what_is_deleted_is_unlinked_not_followed(place):
    """The retraining goes, what its link pointed at stays."""
    model = place.run.directory / OURS / "ranker" / "model"
    model.mkdir(parents=True)
    (model / "link").symlink_to(place.victim)
    place.ranker(f"{OURS}/ranker/model")
    place.collect()
    assert not (place.run.directory / OURS).exists()
    assert place.left_alone()


def test_what_the_promotion_file_names_is_not_deleted(place):
    """A ranker on record as being removed that serves, by its place, is refused; one outside the
    run makes nothing garbage.
    """
    facts = {
        "ranker_hash": "b" * 64,
        "repository": "feature_repo",
        "generation": None,
        "codebook_hash": None,
        "promoted_at": AT.isoformat(),
    }
    served = place.run.directory / OURS / "ranker" / "model"
    served.mkdir(parents=True)
    place.ranker(f"{OURS}/ranker/model")
    (place.run.directory / PROMOTION).write_text(
        json.dumps({**facts, "ranker": f"{OURS}/ranker/model"})
    )
    with pytest.raises(ArtifactError, match="the promotion file serves it"):
        place.collect()
    assert served.is_dir()
    (place.run.directory / PROMOTION).write_text(
        json.dumps({**facts, "ranker": str(place.victim / "deep" / "model")})
    )
    assert garbage(place.run, place.catalog) == {"rankers": [], "generations": []}


def test_rows_of_a_generation_whose_id_is_a_path_are_not_deleted(place):
    """`unpublish` refuses an id that leads out of the repository."""
    with pytest.raises(InputError, match="generation id is"):
        unpublish(place.repo, "g1/../../../../victim")
    assert place.left_alone()


def test_a_packed_file_outside_its_publication_is_not_opened(place):
    """A publication's manifest that names ../../../x is refused by name."""
    publication = publication_path(place.repo, "g1")
    (publication / MANIFEST).write_text(
        json.dumps({"files": {}, "codebook_hash": "", "snapshots": [{"packed": "../../../x.sids"}]})
    )
    with pytest.raises(ArtifactError, match=r"is no path below"):
        open_timeline(publication)


def test_names_that_we_make_are_names_that_we_delete():
    """A retraining's place is recognised from its ranker's directory."""
    assert retrain_of(f"{retrain_place(AT, {'a': 1})}/ranker/model") == retrain_place(AT, {"a": 1})
    assert retrain_of(retrain_place(AT, {})) is None


# ---- any hostile text, at each border


def refused_or_harmless(border: Callable[[Place, str], object], name: str) -> None:
    """The border raises one of our errors, or what it answers lies in its place; nothing beside the
    run changes.
    """
    with TemporaryDirectory() as parent:
        place = Place(Path(parent))
        try:
            answer = border(place, name)
        except AdcError:
            answer = None
        if isinstance(answer, Path):
            assert answer.resolve().is_relative_to(place.run.directory.resolve()), name
            assert answer.resolve() != place.run.directory.resolve()
        elif answer is not None:
            assert re.fullmatch(r"[\w.+=-]+", name), name  # it names one entry of a directory
        assert place.left_alone()


def _manifest(place: Place, name: str) -> None:
    made = place.run.directory / "generations" / "g1"
    (made / MANIFEST).write_text(json.dumps({"files": {name: "0" * 64}}))
    read_manifest(made)


def _packed(place: Place, name: str) -> None:
    publication = place.repo / "data" / "item_sid_g1"
    (publication / MANIFEST).write_text(
        json.dumps({"files": {}, "codebook_hash": "", "snapshots": [{"packed": name}]})
    )
    open_timeline(publication)


def _live(place: Place, name: str) -> None:
    facts = {
        "codebook_hash": "",
        "trained_through": AT.isoformat(),
        "codebook_size": 2,
        "length": 1,
        "id_type": "string",
    }
    (place.repo / "data" / "live_generations.json").write_text(
        json.dumps({"generations": [{"id": name, **facts}]})
    )
    live_generations(place.repo)


def _promotion(place: Place, name: str) -> None:
    facts = {
        "ranker": "r",
        "ranker_hash": "b",
        "repository": "feature_repo",
        "generation": name,
        "codebook_hash": "",
        "promoted_at": AT.isoformat(),
    }
    (place.run.directory / PROMOTION).write_text(json.dumps(facts))
    read_promotion(place.run.directory / PROMOTION)


def _promoted_ranker(place: Place, name: str) -> None:
    facts = {
        "ranker": name,
        "ranker_hash": "b",
        "repository": name,
        "generation": None,
        "codebook_hash": None,
        "promoted_at": AT.isoformat(),
    }
    (place.run.directory / PROMOTION).write_text(json.dumps(facts))
    problems(place.run, place.catalog)
    place.collect()
    raise ArtifactError("a person may point it anywhere: only what is deleted counts")


def _ranker(place: Place, name: str) -> None:
    place.ranker(name)
    place.collect()
    raise AssertionError(name)


def _generation(place: Place, name: str) -> None:
    place.generation("g2", name)
    if name != "generations/g2":
        place.collect()
        raise AssertionError(name)


BORDERS: dict[str, Callable[[Place, str], object]] = {
    "within": lambda place, name: within(place.run.directory, name, said_by="a test"),
    "deletable": lambda place, name: deletable(place.run.directory, name, said_by="a test"),
    "manifest": _manifest,
    "packed": _packed,
    "live generations": _live,
    "promotion's generation": _promotion,
    "promotion's places": _promoted_ranker,
    "catalogue's ranker": _ranker,
    "catalogue's generation": _generation,
    "unpublish": lambda place, name: unpublish(place.repo, name),
    "publication": lambda place, name: publication_path(place.repo, name),
    "generation": lambda place, name: generation_place(name),
    "stage": lambda place, name: place.run.output(name),
    "variant": lambda place, name: Variant(name, "adc"),
}


@pytest.mark.parametrize("border", sorted(BORDERS))
@given(name=HOSTILE)
@example(name="../victim")
@example(name="../victim/deep/model")
@example(name="link")
@example(name="link/deep")
@example(name="g1/../../../victim")
@example(name="x" * 300)
@example(name="\0")
@settings(max_examples=int(os.environ.get("ADC_EXAMPLES", "15")), deadline=None)
def test_a_path_that_leads_out_is_refused_at_every_border(border, name):
    """Whatever text stands where a name is expected: one of our errors, or a path in its place; a
    tree beside the run stays.
    """
    if "\ud800" in name and border.startswith("catalogue"):
        name = name.replace("\ud800", "?")  # no database holds a lone surrogate
    refused_or_harmless(BORDERS[border], name)


def test_a_sealed_directory_reads_back_whatever_its_files_are_called(tmp_path):
    """Names with spaces, backslashes and letters of any script are no reason to refuse."""
    for name in ("a b", "a\\b", "ключ", "...", ".hidden"):
        (tmp_path / name).write_text("1")
    seal(tmp_path, {})
    assert len(read_manifest(tmp_path)["files"]) == 5
