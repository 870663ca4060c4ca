"""What a person is shown of a deployment, and what is wrong with it. Reads: the catalogue, the
directories that it names. Writes: the record, brought up to date.
"""

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from adc_features.artifact import read_manifest, within
from adc_features.catalog import Catalog
from adc_features.errors import AdcError, ArtifactError, InputError
from adc_features.pipeline.run import Run
from adc_features.ranking.trained import ranker_manifest
from adc_features.serving.promotion import PROMOTION, check_promotion, read_promotion
from training.deployment.record import sync


def versions(run: Run, catalog: Catalog, *, at: datetime) -> dict[str, Any]:
    """All there is, for a person: generations with their snapshots counted, rankers, promotions;
    what serves is marked.
    """
    sync(run, catalog, at=at)
    snapshots = catalog.snapshots()
    generations = [
        {
            **g,
            "snapshots": sum(s["generation"] == g["id"] for s in snapshots),
            "newest": max(
                (s["as_of"] for s in snapshots if s["generation"] == g["id"]), default=None
            ),
        }
        for g in catalog.generations()
    ]
    return {
        "generations": generations,
        "rankers": catalog.rankers(),
        "promotions": catalog.promotions(),
    }


def show(run: Run, catalog: Catalog, name: str, *, at: datetime) -> dict[str, Any]:
    """One thing on record, by id, number or the start of a hash, and its events. Raises InputError
    when there is none.
    """
    sync(run, catalog, at=at)
    kinds = {
        "generation": ("id", catalog.generations()),
        "ranker": ("hash", catalog.rankers()),
        "promotion": ("number", catalog.promotions()),
    }
    for kind, (key, rows) in kinds.items():
        for row in rows:
            if (kind == "ranker" and str(row[key]).startswith(name)) or str(row[key]) == name:
                subject = str(row[key])
                events = [
                    e
                    for e in catalog.events()
                    if e["subject"].partition("/")[0] == subject
                    and e["event"].startswith(("snapshot", kind))
                ]
                directory = (
                    {
                        "manifest": read_manifest(
                            within(run.directory, row["directory"], said_by="the catalogue"),
                            verify=False,
                        )
                    }
                    if row.get("state") in ("live", "ready")
                    else {}
                )
                return {
                    "kind": kind,
                    **row,
                    "events": events,
                    **{
                        k: {n: v for n, v in m.items() if n != "files"}
                        for k, m in directory.items()
                    },
                }
    raise InputError(
        f"nothing on record is called {name!r}; `adc versions --run {run.directory}` lists what"
        " there is"
    )


def problems(run: Run, catalog: Catalog) -> list[str]:
    """What a person must know of a deployment: an artefact on record that is gone or altered, a
    promotion that cannot serve. Changes nothing.

    A promotion that was cut short is none: the promotion file says whether it happened, and the
    next command records that.
    """
    said = []
    for generation in catalog.generations():
        if generation["state"] == "live" and (
            wrong := _refused(_generation_manifest, run, generation["directory"])
        ):
            said.append(f"generation {generation['id']}: {wrong}")
    for ranker in catalog.rankers():
        if ranker["state"] == "ready" and (
            wrong := _refused(ranker_manifest, run, ranker["directory"])
        ):
            said.append(f"ranker {ranker['hash'][:12]}: {wrong}")
    if os.path.lexists(run.directory / PROMOTION):
        try:
            check_promotion(read_promotion(run.directory / PROMOTION))
        except AdcError as error:
            said.append(f"what is promoted cannot serve: {error}")
    return said


def _generation_manifest(directory: Path) -> dict[str, Any]:
    return read_manifest(directory, requires=["weights.safetensors", "quality.json"])


def _refused(read: Callable[[Path], Any], run: Run, directory: str) -> str | None:
    """What a reader says against a directory on record; None where it reads it."""
    try:
        read(within(run.directory, directory, said_by="the catalogue"))
    except ArtifactError as error:
        return str(error)
    return None
