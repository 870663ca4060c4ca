"""The versions of a ranker of a feature service, and which of them serves. Reads: ranker
directories, promotions. Writes: promotions.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from adc_features.artifact import MANIFEST, file_hash, read_manifest
from adc_features.errors import InputError
from adc_features.serving.promoted import Promoted, promote_on_record, promotions
from adc_features.serving.promotion import trained_pair
from adc_features.serving.workspace import Workspace, trained_names
from training.deployment.declared.champion import judged_metric


def ranker_versions(repo: Path, name: str | None = None) -> dict[str, Any]:
    """The trained versions of one ranker, or of all of a repository, and their promotions.

    Returns {"rankers": {name: {"versions": [...], "promotions": [...], "serving": version or
    None}}}, each list oldest first. Raises InputError when nothing was trained.
    """
    names = trained_names(repo) if name is None else [name]
    if not names:
        raise InputError(
            f"{repo} has no trained ranker; run `adc train --repo {repo} --labels FILE` first"
        )
    return {"repository": str(repo), "rankers": {n: _of(Workspace(repo, n)) for n in names}}


def _of(place: Workspace) -> dict[str, Any]:
    place.newest()
    record = promotions(place)
    serving = record[-1].version if record else None
    versions = []
    for path in place.versions():
        manifest = read_manifest(path, verify=False)
        facts: Mapping[str, Any] = manifest["facts"]
        versions.append(
            {
                "version": path.name,
                "hash": file_hash(path / MANIFEST),
                "serving": path.name == serving,
                "generation": manifest["generation"],
                "rows": facts["rows"],
                "trained_through": facts["cutoff"],
                "warm_start": facts["warm_start"],
                "made_by": facts.get("retrained"),
                "judged": judged_metric(place, path, facts),
                "inputs": len(manifest["pins"]["inputs"]),
            }
        )
    return {"versions": versions, "promotions": [_row(p) for p in record], "serving": serving}


def _row(found: Promoted) -> dict[str, Any]:
    return {
        "number": found.number,
        "version": found.version,
        "ranker": found.ranker_hash,
        "generation": found.generation,
        "promoted_at": found.promoted_at,
        "why": found.why,
    }


def rollback_ranker(
    repo: Path, name: str, *, at: datetime, to: int | None = None
) -> dict[str, Any]:
    """Serve an earlier promotion of a ranker again: number `to`, else the newest before the one
    that serves that had another version.

    It is opened first, which checks it against the registry as it is now. Raises InputError when
    there is no such promotion, and as `open_declared`; what serves is left as it was then.
    """
    from adc_features.serving.declared import open_declared

    place = Workspace(repo, name)
    record = promotions(place)
    if not record:
        raise InputError(
            f"ranker {name!r} of {repo} has promoted nothing, so there is nothing to roll back;"
            f" `adc promote --repo {repo} --ranker {name}` lets it serve"
        )
    serving = record[-1]
    earlier = [p for p in record if p.ranker_hash != serving.ranker_hash]
    chosen = earlier[-1:] if to is None else [p for p in record if p.number == to]
    if not chosen:
        what = f"promotion {to}" if to is not None else "an earlier version"
        raise InputError(
            f"ranker {name!r} has no {what.removeprefix('an ')} to go back to; `adc versions --repo"
            f" {repo} --ranker {name}` lists its promotions"
        )
    path = place.directory / chosen[0].version
    if not (path / MANIFEST).is_file():
        raise InputError(f"version {chosen[0].version} of ranker {name!r} is gone from {path}")
    pair = trained_pair(repo, path, at=at)
    if pair.ranker_hash != chosen[0].ranker_hash:
        raise InputError(
            f"version {chosen[0].version} of ranker {name!r} was trained again since promotion"
            f" {chosen[0].number}; promote it by name, `adc promote`"
        )
    open_declared(pair)
    number = promote_on_record(place, pair, why=f"rolled back to promotion {chosen[0].number}")
    return {
        "ranker": name,
        "promotion": number,
        "from": serving.version,
        "to": chosen[0].version,
        "pair": pair.name,
    }
