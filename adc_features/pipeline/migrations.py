"""Bring what an older version wrote to the formats of this one. Reads and writes: `run.json`, the
promotion file, a Feast repository's own documents and registry, the catalogue.

Each step replaces one document, written aside and renamed, or is one transaction of the catalogue:
a migration that is killed leaves some documents of the old format and some of the new, all of which
are read, and the next one does the rest. Directories that were sealed by a manifest are not
rewritten: promotions, the catalogue and later stages name them by the hash of that manifest, and
this version reads them as they are.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from adc_features.artifact import CHECK, checked, write_document
from adc_features.catalog import DATABASE, VARIABLE, open_catalog, revisions, undisturbed
from adc_features.errors import InputError
from adc_features.file_lock import file_lock
from adc_features.formats import FORMATS, format_of, unnumbered
from adc_features.pipeline.run import Run
from adc_features.redaction import redacted_url
from adc_features.serving.promotion import PROMOTION, read_promotion
from adc_features.store.online_record import loaded, record_path
from adc_features.store.repository import (
    CONFIG,
    check_repository,
    is_created,
    live_generations,
    live_generations_path,
    write_live_generations,
)

log = logging.getLogger(__name__)
REPOSITORY = "feature_repo"


class Step(NamedTuple):
    """One thing that is brought up to date. kind: what it is; path: where, a URL without its
    password for a catalogue. found, becomes: its format. apply: does it, atomically.
    """

    kind: str
    path: str
    found: int | str
    becomes: int | str
    apply: Callable[[], None]

    @property
    def words(self) -> str:
        """What is to be done, in words."""
        return f"{self.kind} of format {self.found}, this version writes {self.becomes}"

    def facts(self) -> dict[str, Any]:
        """For a report."""
        return {
            "kind": self.kind,
            "path": self.path,
            "found": self.found,
            "becomes": self.becomes,
        }


def plan(directory: Path, *, catalog: str | None = None, registry: bool = True) -> list[Step]:
    """What is to be migrated in a run or a Feast repository; changes nothing.

    catalog: URL, default $ADC_CATALOG, else the file in the run. registry: examine Feast's registry
    too, which imports feast (seconds). Raises InputError for another directory, ArtifactError when
    a newer version wrote something, or a document is damaged.
    """
    directory = Path(directory)
    if (directory / CONFIG).is_file():
        return _of_repository(directory, registry=registry)
    if not (directory / "run.json").is_file():
        raise InputError(
            f"{directory} holds no run.json and no {CONFIG}; give a run or a Feast repository"
            " (other directories are read as they are, whichever version wrote them)"
        )
    steps = _of_catalog(directory, catalog)
    steps += _of_document("run", directory / "run.json", check=partial(Run.open, directory))
    promotion = directory / PROMOTION
    if os.path.lexists(promotion):
        steps += _of_document("promotion", promotion, check=partial(read_promotion, promotion))
    if (directory / REPOSITORY / CONFIG).is_file():
        steps += _of_repository(directory / REPOSITORY, registry=registry)
    return steps


def migrate(directory: Path, *, catalog: str | None = None) -> list[Step]:
    """Do what `plan` lists, in its order; returns it. Does nothing the second time.

    Raises InputError, nothing changed, while another process builds, publishes, promotes, retrains
    or cleans up there.
    """
    directory = Path(directory)
    plan(directory, catalog=catalog, registry=False)  # what cannot be read is said before all else
    with ExitStack() as held:
        run = None
        if not (directory / CONFIG).is_file():
            run = Run.open(directory)
            if url := _catalog_url(directory, catalog):
                held.enter_context(undisturbed(url))
            held.enter_context(run.lock())
        repository = directory / REPOSITORY if run else directory
        if (repository / "data").is_dir():
            held.enter_context(_no_publisher(repository / "data"))
        steps = plan(directory, catalog=catalog)
        for step in steps:
            step.apply()
            log.info("stage=migrate kind=%s from=%s to=%s", step.kind, step.found, step.becomes)
            if run:
                run.record("migrate", **step.facts())
    return steps


def _catalog_url(run: Path, url: str | None) -> str | None:
    """Where the catalogue of a run is; None when it has none yet."""
    if url := url or os.environ.get(VARIABLE):
        return url
    place = (run / DATABASE).resolve()
    return f"sqlite:///{place}" if place.is_file() else None


def _of_catalog(run: Path, url: str | None) -> list[Step]:
    if (url := _catalog_url(run, url)) is None:
        return []
    found, newest = revisions(url)
    if found == newest:
        return []

    def upgrade() -> None:
        open_catalog(url)

    return [Step("catalogue", redacted_url(url), found or "none", newest, upgrade)]


def _of_document(kind: str, path: Path, *, check: Callable[[], Any]) -> list[Step]:
    """The step of a JSON document whose content stays, where it is of an older format. check:
    raises when the document is damaged.
    """
    check()
    document = json.loads(path.read_text(encoding="utf-8"))
    found = format_of(kind, document, of=path)
    if found == FORMATS[kind]:
        return []
    content = unnumbered(kind, checked(document, path), of=path)
    return [
        Step(
            kind,
            str(path),
            found,
            FORMATS[kind],
            lambda: write_document(path, kind, content, check=CHECK in document),
        )
    ]


def _of_repository(repo: Path, *, registry: bool) -> list[Step]:
    steps = []
    path = live_generations_path(repo)
    if path.is_file():
        generations = live_generations(repo)
        found = format_of("live_generations", json.loads(path.read_text("utf-8")), of=path)
        if found < (newest := FORMATS["live_generations"]):
            steps.append(
                Step(
                    "live_generations",
                    str(path),
                    found,
                    newest,
                    lambda: write_live_generations(repo, generations),
                )
            )
    if record_path(repo).is_file():
        steps += _of_document("online_record", record_path(repo), check=partial(loaded, repo))
    if registry and is_created(repo) and not check_repository(repo):
        steps += _of_registry(repo)
    return steps


def _of_registry(repo: Path) -> list[Step]:
    """What Feast's registry declares otherwise than this version does, or of another place: all is
    declared anew.
    """
    from adc_features.store import apply, registry_problems

    if not (problems := registry_problems(repo)):
        return []
    found = f"{len(problems)} declarations of another version or place"
    return [Step("registry", str(repo), found, "declared anew", partial(apply, repo))]


@contextmanager
def _no_publisher(data: Path) -> Iterator[None]:
    """Hold the lock of `publish` on a repository's data, without waiting for it."""
    with file_lock(data) as taken:
        if not taken:
            raise InputError(
                f"another process is publishing in {data}; wait for it, then run the command again"
            )
        yield
