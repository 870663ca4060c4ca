"""What nothing promoted needs any more, and its deletion. Reads: the catalogue, the promotion file.
Writes: the catalogue; deletes generations and rankers.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from adc_features.artifact import MANIFEST, deletable
from adc_features.catalog import WAIT, Catalog
from adc_features.catalog.tables import GENERATIONS, RANKERS
from adc_features.codes.generation import generation_place
from adc_features.errors import ArtifactError, InputError
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import repository_of
from adc_features.serving.promotion import PROMOTION, read_promotion
from training.deployment.places import retrain_of
from training.deployment.promotions import DEPLOY, pair_of
from training.deployment.record import line_of, sync

log = logging.getLogger(__name__)
KEEP = 1
"""Promotions before the serving one that `gc` keeps whole, to roll back to."""


def garbage(run: Run, catalog: Catalog, *, keep: int = KEEP) -> dict[str, list[str]]:
    """What nothing needs: {"rankers": directories, "generations": ids}.

    Kept: what serves, the `keep` promotions before it, whatever is newer than the serving ranker,
    the run's own rankers and generation, every generation in the line of one that is kept, and the
    newest.
    """
    rows = catalog.promotions()
    serving = next((p for p in rows if p["state"] == "serving"), None)
    pairs: list[tuple[Any, Any]] = []
    for p in reversed(rows):
        if p["state"] in ("serving", "retired") and pair_of(p) not in pairs:
            pairs.append(pair_of(p))
    needed = {ranker for ranker, _ in pairs[: keep + 1]}
    ready = [r for r in catalog.rankers() if r["state"] == "ready"]
    since = next(
        (r["registered_at"] for r in ready if serving and r["hash"] == serving["ranker"]), None
    )
    # by place too: a hash that was altered must not free the directory that the file names
    named = _named(run)
    kept = [
        r
        for r in ready
        if r["hash"] in needed
        or retrain_of(r["directory"]) is None
        or since is None
        or r["registered_at"] > since
        or (run.directory / r["directory"]).resolve() == named
    ]
    live = {g["id"]: g for g in catalog.generations() if g["state"] == "live"}
    newest = (
        max(live.values(), key=lambda g: (g["trained_through"], g["registered_at"]))["id"]
        if live
        else None
    )
    used = {
        run.settings.generation,
        newest,
        *(r["generation"] for r in kept),
        *(p["generation"] for p in rows if pair_of(p) in pairs[: keep + 1]),
    }
    used |= {name for g in used if g in live for name in line_of(live, g)}
    return {
        "rankers": [r["directory"] for r in ready if r not in kept],
        "generations": [g for g in live if g not in used],
    }


def _named(run: Run) -> Path | None:
    """The ranker directory that the promotion file names."""
    path = run.directory / PROMOTION
    return read_promotion(path).ranker if os.path.lexists(path) else None


class _Doomed(NamedTuple):
    """What a clean-up will delete, every path checked. models: of retrainings, each in a directory
    of its own.
    """

    generations: list[str]
    directories: list[Path]
    manifests: list[Path]


def _doomed(run: Run, catalog: Catalog, found: Mapping[str, list[str]]) -> _Doomed:
    """The garbage, and what a killed clean-up had recorded as being removed.

    Raises ArtifactError unless each of them is a directory that we make, below the run and behind
    no symbolic link.
    """
    from adc_features.store.repository import deletable_publication

    rows = [
        g
        for g in catalog.generations()
        if g["state"] == "removing" or g["id"] in found["generations"]
    ]
    rankers = catalog.rankers()
    used = {r["directory"] for r in rankers if r["state"] == "ready"} - set(found["rankers"])
    models = {
        r["directory"]: r["hash"]
        for r in rankers
        if r["directory"] not in used
        and (
            r["state"] == "removing"
            or (r["state"] == "ready" and r["directory"] in found["rankers"])
        )
    }
    directories, manifests = [], []
    for g in rows:
        said_by = f"the catalogue's generation {g['id']!r}"
        try:
            ours = (
                g["directory"] == generation_place(g["id"]) and g["id"] != run.settings.generation
            )
        except InputError:
            ours = False
        if not ours:
            raise _not_ours(said_by, g["directory"], "generations/<its id>")
        deletable(run.directory, f"{repository_of(run).name}/data", said_by=said_by)
        deletable_publication(repository_of(run), g["id"])
        directories.append(deletable(run.directory, g["directory"], said_by=said_by))
    for model, ranker in models.items():
        said_by = f"the catalogue's ranker {ranker[:12]}"
        if (place := retrain_of(model)) is None:
            raise _not_ours(said_by, model, "retrains/<time>_<hash>/ranker/model")
        outer = deletable(run.directory, model, said_by=said_by).parent
        manifests.append(outer / MANIFEST)
        directories.append(deletable(run.directory, place, said_by=said_by))
    if (named := _named(run)) is not None and any(
        named.is_relative_to(d.resolve()) for d in directories
    ):
        raise ArtifactError(
            f"the catalogue says that {named} is being removed, the promotion file serves it;"
            " nothing was deleted: promote another ranker first, or restore the catalogue"
            " (deleted, it is made again from what is there)"
        )
    return _Doomed([g["id"] for g in rows], directories, manifests)


def _not_ours(said_by: str, directory: str, expected: str) -> ArtifactError:
    return ArtifactError(
        f"{said_by} is to be removed with directory {directory!r}, expected {expected}: the record"
        " was altered and nothing was deleted; restore the catalogue from a backup, or delete it:"
        " it is made again from what is there"
    )


def collect(
    run: Run, catalog: Catalog, *, at: datetime, keep: int = KEEP, dry_run: bool = False
) -> dict[str, Any]:
    """Delete the garbage: generations from what is declared first, then files. Killed at any point,
    the next call goes on.

    Raises InputError, nothing deleted, while a retraining or another clean-up runs; ArtifactError,
    nothing deleted, when the record names a directory that is not of our making or lies behind a
    symbolic link.
    """
    from adc_features.store import apply, unpublish

    with (
        catalog.alone("gc"),
        catalog.alone("retrain"),
        catalog.alone(DEPLOY, wait=WAIT),
        run.lock(),
    ):
        sync(run, catalog, at=at)
        found = garbage(run, catalog, keep=keep)
        doomed = _doomed(run, catalog, found)
        if dry_run:
            return {"dry_run": True, **found}
        with catalog.write(at=at) as writer:
            for g in found["generations"]:
                writer.put(
                    GENERATIONS, {"id": g}, {"state": "removing"}, event="generation_removing"
                )
            for r in writer.rows(RANKERS, state="ready"):
                if r["directory"] in found["rankers"]:
                    writer.put(
                        RANKERS, {"hash": r["hash"]}, {"state": "removing"}, event="ranker_removing"
                    )
        for generation in doomed.generations:
            unpublish(repository_of(run), generation)
        if doomed.generations:
            apply(repository_of(run))
        for manifest in doomed.manifests:
            manifest.unlink(missing_ok=True)  # first: what is half deleted must not look whole
        for directory in doomed.directories:
            (directory / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(directory, ignore_errors=True)
        with catalog.write(at=at) as writer:
            for table, name, key in (
                (GENERATIONS, "generation", "id"),
                (RANKERS, "ranker", "hash"),
            ):
                for row in writer.rows(table, state="removing"):
                    writer.put(
                        table, {key: row[key]}, {"state": "removed"}, event=f"{name}_removed"
                    )
        log.info(
            "stage=gc rankers=%d generations=%d", len(found["rankers"]), len(found["generations"])
        )
        return {"dry_run": False, **found}
