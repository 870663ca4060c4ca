"""What a run directory deploys, and its catalogue. Reads: generations, snapshots, rankers, the
promotion file. Writes: the catalogue, then the promotion file.

<run>/catalog.db                       the catalogue, unless --catalog or ADC_CATALOG names a
                                       database; one database a deployment
<run>/promotion.json                   what serves: the truth
<run>/ranker_<recipe>/model            rankers of the run itself
<run>/retrains/<as_of>_<hash>/ranker/model   those that `adc retrain` made

Every command here first brings the record up to the directories (`sync`): what is whole and unknown
is registered, what is gone is marked, and a promotion that a kill cut short is settled by what the
promotion file says.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from adc_features.artifact import MANIFEST, deletable, file_hash, read_manifest, within
from adc_features.catalog import WAIT, Catalog, Writer, open_catalog
from adc_features.catalog.tables import GENERATIONS, PROMOTIONS, RANKERS, SNAPSHOTS
from adc_features.codes.generation import generation_place
from adc_features.errors import AdcError, ArtifactError, GenerationMismatch, InputError
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import repository_of, split_of
from adc_features.serving.promotion import (
    PROMOTION,
    Promotion,
    check_promotion,
    promote,
    read_promotion,
)
from training.deployment.places import retrain_of

log = logging.getLogger(__name__)
DATABASE, VARIABLE = "catalog.db", "ADC_CATALOG"
DEPLOY = "deploy"
"""The lock of whoever moves the promotion file, or deletes what it might name."""
KEEP = 1
"""Promotions before the serving one that `gc` keeps whole, to roll back to."""


def catalog_of(run: Run, url: str | None = None) -> Catalog:
    """The run's catalogue: at `url`, else where ADC_CATALOG points, else SQLite in the run
    directory.
    """
    return open_catalog(catalog_url(run, url))


def catalog_url(run: Run, url: str | None = None) -> str:
    """Where the run's catalogue is."""
    return url or os.environ.get(VARIABLE) or f"sqlite:///{(run.directory / DATABASE).resolve()}"


# ---- record


def sync(run: Run, catalog: Catalog, *, at: datetime, replacing: bool = False) -> None:
    """Bring the record up to the directories and the promotion file; changes neither of them.
    Idempotent.

    replacing: the caller replaces the promotion file next, so that a damaged one does not stop it.
    """
    from adc_features.store import live_generations, published_snapshots

    repo = repository_of(run)
    live = {g.id: g for g in live_generations(repo)} if repo.is_dir() else {}
    with catalog.write(at=at) as writer:
        for g in live.values():
            directory = _generation_directory(run, g.id)
            facts = {
                "codebook_hash": g.codebook_hash,
                "parent_codebook_hash": _parent(run.directory / directory),
                "directory": directory,
            }
            writer.put(
                GENERATIONS,
                {"id": g.id},
                {**facts, "trained_through": g.trained_through, "state": "live"},
                event="generation",
            )
            for s in published_snapshots(repo, g.id):
                times = {"servable_at": s.servable_at, "computed_at": s.computed_at}
                writer.put(
                    SNAPSHOTS,
                    {"generation": g.id, "as_of": s.as_of},
                    {**times, "hindsight": s.hindsight, "items": s.items},
                    event="snapshot",
                )
        for row in writer.rows(GENERATIONS, state="live"):
            if row["id"] not in live:
                writer.put(
                    GENERATIONS, {"id": row["id"]}, {"state": "removed"}, event="generation_removed"
                )
        rankers = {r.hash: r for r in _rankers(run)}
        for r in rankers.values():
            values = {
                "directory": r.directory,
                "recipe": r.recipe,
                "generation": r.generation,
                "trained_through": r.trained_through,
                "state": "ready",
            }
            writer.put(RANKERS, {"hash": r.hash}, values, event="ranker")
        for row in writer.rows(RANKERS, state="ready"):
            if row["hash"] not in rankers:
                writer.put(
                    RANKERS, {"hash": row["hash"]}, {"state": "removed"}, event="ranker_removed"
                )
        _settle(run, writer, replacing=replacing)


class FoundRanker(NamedTuple):
    """A complete ranker directory. directory: relative to the run. trained_through: exclusive end
    of its training rows.
    """

    hash: str
    directory: str
    recipe: str
    generation: str | None
    trained_through: datetime


def _rankers(run: Run) -> list[FoundRanker]:
    found = []
    for path in sorted(
        [
            *run.directory.glob(f"ranker_*/model/{MANIFEST}"),
            *run.directory.glob(f"retrains/*/ranker/model/{MANIFEST}"),
        ]
    ):
        outer = path.parent.parent
        if not (outer / MANIFEST).is_file():
            continue
        manifest, facts = (
            read_manifest(path.parent, verify=False),
            read_manifest(outer, verify=False)["facts"],
        )
        through = (
            datetime.fromisoformat(facts["trained_through"])
            if "trained_through" in facts
            else split_of(run).train_end
        )
        found.append(
            FoundRanker(
                file_hash(path),
                str(path.parent.relative_to(run.directory)),
                manifest["recipe"]["name"],
                manifest["generation"],
                through,
            )
        )
    return found


def _settle(run: Run, writer: Writer, *, replacing: bool) -> None:
    """Promotions as the promotion file has them: the newest row that it names serves, older ones
    are retired, begun ones that it does not name never happened.

    replacing: the file is about to be replaced; one that is damaged says nothing, and leaves the
    record as it is.
    """
    path = run.directory / PROMOTION
    try:
        serving = read_promotion(path) if os.path.lexists(path) else None
    except ArtifactError as error:
        if not replacing:
            raise
        log.warning("stage=promote replaced=true reason=%s", error)
        return
    named = None
    for row in writer.rows(PROMOTIONS):
        if serving is not None and (row["ranker"], row["promoted_at"]) == (
            serving.ranker_hash,
            serving.promoted_at,
        ):
            named = row["number"]
    if serving is not None and named is None:
        named = writer.add(
            PROMOTIONS, {**_row(serving), "state": "serving"}, event="promotion_found"
        )
    for row in writer.rows(PROMOTIONS):
        state = (
            "serving"
            if row["number"] == named
            else {"serving": "retired", "pending": "abandoned"}.get(row["state"], row["state"])
        )
        writer.put(
            PROMOTIONS, {"number": row["number"]}, {"state": state}, event=f"promotion_{state}"
        )


def _row(pair: Promotion) -> dict[str, Any]:
    return {
        "ranker": pair.ranker_hash,
        "generation": pair.generation,
        "codebook_hash": pair.codebook_hash,
        "promoted_at": pair.promoted_at,
    }


def _generation_directory(run: Run, generation_id: str) -> str:
    return (
        "generation/generation"
        if generation_id == run.settings.generation
        else generation_place(generation_id)
    )


def _parent(directory: Path) -> str | None:
    """The codebook whose codes a generation keeps: of a warm start, as one that was only named
    after another is no line to trust.
    """
    if not (directory / MANIFEST).is_file():
        return None
    aligned = read_manifest(directory, verify=False)["settings"].get("aligned")
    return aligned["parent_codebook_hash"] if aligned and aligned["warm"] else None


# ---- promote and roll back


def deploy(run: Run, catalog: Catalog, pair: Promotion, *, at: datetime) -> int:
    """Promote a pair on record; returns its number. Checked first, the file last but for the record
    of it; a kill in between is settled by `sync`.

    A promotion file that is damaged in any way is replaced.

    Waits for another promotion, or a clean-up, to end: neither sees the other half done.
    """
    with catalog.alone(DEPLOY, wait=WAIT):
        check_promotion(pair)
        sync(run, catalog, at=at, replacing=True)
        with catalog.write(at=at) as writer:
            number = writer.add(
                PROMOTIONS, {**_row(pair), "state": "pending"}, event="promotion_begun"
            )
        promote(run.directory / PROMOTION, pair)
        sync(run, catalog, at=at)
        return number


def candidate(
    run: Run, catalog: Catalog, ranker: str, *, generation: str | None = None, at: datetime
) -> Promotion:
    """The pair of a ranker on record and its own generation, or a later one of the same line.
    ranker: its hash, or the start of it.

    Raises InputError when no ranker, or several, begin so; GenerationMismatch for a generation of
    another line.
    """
    matching = [
        r for r in catalog.rankers() if r["hash"].startswith(ranker) and r["state"] == "ready"
    ]
    if len(matching) != 1:
        raise InputError(
            f"{len(matching)} rankers begin with {ranker!r}; `adc versions --run {run.directory}`"
            " lists those there are"
        )
    row, known = matching[0], {g["id"]: g for g in catalog.generations() if g["state"] == "live"}
    wanted = generation or row["generation"]
    if wanted is not None and row["generation"] not in line_of(known, wanted):
        raise GenerationMismatch(
            f"ranker {row['hash'][:12]} was trained on generation {row['generation']!r}; {wanted!r}"
            " is not of its line, codes mean other things there: train a ranker on it, `adc"
            " retrain --generation`"
        )
    codebook = known[wanted]["codebook_hash"] if wanted else None
    known_as = row["generation"] if wanted != row["generation"] else None
    place = within(
        run.directory, row["directory"], said_by=f"the catalogue's ranker {row['hash'][:12]}"
    )
    return Promotion(place, row["hash"], repository_of(run), wanted, codebook, at, known_as)


def line_of(generations: Mapping[str, Mapping[str, Any]], generation: str) -> list[str]:
    """This generation and those whose codes it keeps, newest first; empty when it is not live."""
    by_hash = {g["codebook_hash"]: name for name, g in generations.items()}
    line: list[str] = []
    name: str | None = generation if generation in generations else None
    while name is not None and name not in line:
        line.append(name)
        name = by_hash.get(generations[name]["parent_codebook_hash"])
    return line


def rollback(run: Run, catalog: Catalog, *, at: datetime, to: int | None = None) -> dict[str, Any]:
    """Serve an earlier promotion again: number `to`, else the newest before the serving one that
    had another ranker or other codes.

    Raises InputError when there is none; what it served must be whole still. Nothing is trained,
    fitted or moved: a pointer.
    """
    sync(run, catalog, at=at)
    rows = catalog.promotions()
    serving = next((p for p in rows if p["state"] == "serving"), None)
    if serving is None:
        raise InputError(
            f"{run.directory} has promoted nothing, so there is nothing to roll back; `adc promote`"
            " lets a ranker serve"
        )
    earlier = [
        p
        for p in rows
        if p["state"] == "retired"
        and p["number"] < serving["number"]
        and _pair(p) != _pair(serving)
    ]
    chosen = (
        [p for p in rows if p["number"] == to and p["state"] == "retired"]
        if to is not None
        else earlier[-1:]
    )
    if not chosen:
        raise InputError(
            f"promotion {to if to is not None else 'before number ' + str(serving['number'])} is"
            f" not there; `adc versions --run {run.directory}` lists them"
        )
    pair = candidate(run, catalog, chosen[0]["ranker"], generation=chosen[0]["generation"], at=at)
    number = deploy(run, catalog, pair, at=at)
    return {
        "promotion": number,
        "from": serving["number"],
        "to": chosen[0]["number"],
        "pair": pair.name,
    }


def _pair(row: Mapping[str, Any]) -> tuple[Any, Any]:
    return row["ranker"], row["codebook_hash"]


# ---- what to keep


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
        if p["state"] in ("serving", "retired") and _pair(p) not in pairs:
            pairs.append(_pair(p))
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
        *(p["generation"] for p in rows if _pair(p) in pairs[: keep + 1]),
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


# ---- what is wrong


def problems(run: Run, catalog: Catalog) -> list[str]:
    """What a person must know of a deployment: an artefact on record that is gone or altered, a
    promotion that cannot serve. Changes nothing.

    A promotion that was cut short is none: the promotion file says whether it happened, and the
    next command records that.
    """
    said = []
    for generation in catalog.generations():
        if generation["state"] == "live" and (
            wrong := _broken(run, generation["directory"], "weights.safetensors", "quality.json")
        ):
            said.append(f"generation {generation['id']}: {wrong}")
    for ranker in catalog.rankers():
        if ranker["state"] == "ready" and (
            wrong := _broken(run, ranker["directory"], "encoder.npz")
        ):
            said.append(f"ranker {ranker['hash'][:12]}: {wrong}")
    if os.path.lexists(run.directory / PROMOTION):
        try:
            check_promotion(read_promotion(run.directory / PROMOTION))
        except AdcError as error:
            said.append(f"what is promoted cannot serve: {error}")
    return said


def _broken(run: Run, directory: str, *requires: str) -> str | None:
    try:
        read_manifest(within(run.directory, directory, said_by="the catalogue"), requires=requires)
    except ArtifactError as error:
        return str(error)
    return None
