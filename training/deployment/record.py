"""A deployment on record. Reads: generations, snapshots, rankers, the promotion file of a run.
Writes: the catalogue.

<run>/catalog.db                       the catalogue, unless --catalog or ADC_CATALOG names a
                                       database; one database a deployment
<run>/promotion.json                   what serves: the truth
<run>/ranker_<recipe>/model            rankers of the run itself
<run>/retrains/<as_of>_<hash>/ranker/model   those that `adc retrain` made

Every command of a deployment first brings the record up to the directories (`sync`): what is whole
and unknown is registered, what is gone is marked, and a promotion that a kill cut short is settled
by what the promotion file says.
"""

import logging
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from adc_features.artifact import MANIFEST, file_hash, read_manifest
from adc_features.catalog import DATABASE, VARIABLE, Catalog, Writer, open_catalog
from adc_features.catalog.tables import GENERATIONS, PROMOTIONS, RANKERS, SNAPSHOTS
from adc_features.codes.generation import generation_place
from adc_features.errors import ArtifactError, NewerFormatError
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import repository_of, split_of
from adc_features.serving.promotion import PROMOTION, Promotion, read_promotion
from training.deployment.places import MODEL, RETRAINS

log = logging.getLogger(__name__)


def catalog_of(run: Run, url: str | None = None) -> Catalog:
    """The run's catalogue: at `url`, else where ADC_CATALOG points, else SQLite in the run
    directory.
    """
    return open_catalog(catalog_url(run, url))


def catalog_url(run: Run, url: str | None = None) -> str:
    """Where the run's catalogue is."""
    return url or os.environ.get(VARIABLE) or f"sqlite:///{(run.directory / DATABASE).resolve()}"


def sync(run: Run, catalog: Catalog, *, at: datetime, replacing: bool = False) -> None:
    """Bring the record up to the directories and the promotion file; changes neither of them.
    Idempotent.

    replacing: the caller replaces the promotion file next, so that a damaged one does not stop it.
    """
    with catalog.write(at=at) as writer:
        _sync_generations(run, writer)
        _sync_rankers(run, writer)
        _settle(run, writer, replacing=replacing)


def _sync_generations(run: Run, writer: Writer) -> None:
    """Generations and snapshots as the repository declares them; one that it no longer declares is
    removed.
    """
    from adc_features.store import live_generations, published_snapshots

    repo = repository_of(run)
    live = {g.id: g for g in live_generations(repo)} if repo.is_dir() else {}
    for g in live.values():
        directory = _generation_directory(run, g.id)
        facts = {
            "codebook_hash": g.codebook_hash,
            "parent_codebook_hash": _parent(run.directory / directory),
            "directory": directory,
            "trained_through": g.trained_through,
            "state": "live",
        }
        writer.put(GENERATIONS, {"id": g.id}, facts, event="generation")
        for s in published_snapshots(repo, g.id):
            said = {
                "servable_at": s.servable_at,
                "computed_at": s.computed_at,
                "hindsight": s.hindsight,
                "items": s.items,
            }
            key = {"generation": g.id, "as_of": s.as_of}
            writer.put(SNAPSHOTS, key, said, event="snapshot")
    for row in writer.rows(GENERATIONS, state="live"):
        if row["id"] not in live:
            removed = {"state": "removed"}
            writer.put(GENERATIONS, {"id": row["id"]}, removed, event="generation_removed")


def _sync_rankers(run: Run, writer: Writer) -> None:
    """Rankers whose directories are complete; one that is gone is removed."""
    rankers = {r.hash: r for r in _rankers(run)}
    for r in rankers.values():
        values = {name: value for name, value in r._asdict().items() if name != "hash"}
        writer.put(RANKERS, {"hash": r.hash}, {**values, "state": "ready"}, event="ranker")
    for row in writer.rows(RANKERS, state="ready"):
        if row["hash"] not in rankers:
            removed = {"state": "removed"}
            writer.put(RANKERS, {"hash": row["hash"]}, removed, event="ranker_removed")


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
    for pattern in ("ranker_*/model", f"{RETRAINS}/*/{MODEL}"):
        for path in run.directory.glob(f"{pattern}/{MANIFEST}"):
            model = path.parent
            if not (model.parent / MANIFEST).is_file():
                continue
            manifest = read_manifest(model, verify=False)
            facts = read_manifest(model.parent, verify=False)["facts"]
            through = (
                datetime.fromisoformat(facts["trained_through"])
                if "trained_through" in facts
                else split_of(run).train_end
            )
            place, recipe = str(model.relative_to(run.directory)), manifest["recipe"]["name"]
            found.append(
                FoundRanker(file_hash(path), place, recipe, manifest["generation"], through)
            )
    return sorted(found, key=lambda r: Path(r.directory))


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
        if not replacing or isinstance(error, NewerFormatError):
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
            PROMOTIONS, {**promotion_row(serving), "state": "serving"}, event="promotion_found"
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


def promotion_row(pair: Promotion) -> dict[str, Any]:
    """A pair as the catalogue records its promotion."""
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


def line_of(generations: Mapping[str, Mapping[str, Any]], generation: str) -> list[str]:
    """This generation and those whose codes it keeps, newest first; empty when it is not live."""
    by_hash = {g["codebook_hash"]: name for name, g in generations.items()}
    line: list[str] = []
    name: str | None = generation if generation in generations else None
    while name is not None and name not in line:
        line.append(name)
        name = by_hash.get(generations[name]["parent_codebook_hash"])
    return line
