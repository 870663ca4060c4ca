"""What serves: promote a pair of ranker and codes, or roll back to an earlier one. Reads: the
catalogue. Writes: the catalogue, then the promotion file.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from adc_features.artifact import within
from adc_features.catalog import WAIT, Catalog
from adc_features.catalog.tables import PROMOTIONS
from adc_features.errors import GenerationMismatch, InputError
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import repository_of
from adc_features.serving.promotion import PROMOTION, Promotion, check_promotion, promote
from training.deployment.record import line_of, promotion_row, sync

DEPLOY = "deploy"
"""The lock of whoever moves the promotion file, or deletes what it might name."""


def deploy(run: Run, catalog: Catalog, pair: Promotion, *, at: datetime) -> int:
    """Promote a pair on record. Checked first, the file last but for the record of it; a kill in
    between is settled by `sync`.

    A promotion file that is damaged in any way is replaced. Waits for another promotion, or a
    clean-up, to end: neither sees the other half done.

    Parameters
    ----------
    run, catalog
        The deployment.
    pair
        Ranker and codes; see `candidate` for one on record.
    at
        The time on record.

    Returns
    -------
    int
        The promotion's number.

    Raises
    ------
    ArtifactError, GenerationMismatch
        Nothing promoted, when the pair cannot serve.
    InputError
        When another promotion or a clean-up does not end in time.
    """
    with catalog.alone(DEPLOY, wait=WAIT):
        check_promotion(pair)
        sync(run, catalog, at=at, replacing=True)
        with catalog.write(at=at) as writer:
            number = writer.add(
                PROMOTIONS, {**promotion_row(pair), "state": "pending"}, event="promotion_begun"
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
        and pair_of(p) != pair_of(serving)
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


def pair_of(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """Ranker and codebook of a promotion on record."""
    return row["ranker"], row["codebook_hash"]
