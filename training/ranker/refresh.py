"""How fresh the rows of a ranker are. Reads: a repository, a service, options, what a ranker was
trained with. Writes: refresh schedules, and what a manifest keeps of them.

What is asked for counts; else what the repository says that it does (the block `adc_features:
{refresh: ...}` of feature_store.yaml); else, of a ranker that is trained again, what it was trained
with; else every row is fresh.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adc_features.inputs.schema import ServiceSchema
from adc_features.store.freshness import asked_refresh, declared_refresh
from adc_features.store.refresh import RefreshSchedule

FACT = "refresh"
"""In the facts of a ranker."""


def stored_views(schema: ServiceSchema) -> dict[str, str | None]:
    """The views of a service that are materialized: name in the registry -> the generation whose
    codes it holds."""
    kinds = {view.projected: view.name for view in schema.views if view.kind in ("batch", "stream")}
    found: dict[str, str | None] = dict.fromkeys(kinds.values())
    for feature in schema.features:
        if feature.view in kinds and "generation" in feature.tags:
            found[kinds[feature.view]] = feature.tags["generation"]
    return found


def chosen_refresh(
    repo: Path,
    schema: ServiceSchema,
    asked: Mapping[str, str] | None = None,
    *,
    trained: Mapping[str, Any] | None = None,
) -> dict[str, RefreshSchedule]:
    """View -> schedule, of the views that are not fresh.

    asked: view -> text. trained: the facts of an older ranker. Raises InputError as
    `asked_refresh`.
    """
    views = stored_views(schema)
    if asked is not None:
        return asked_refresh(repo, asked, views)
    if found := declared_refresh(repo, views):
        return found
    kept = trained_texts(trained or {})
    return asked_refresh(repo, {v: t for v, t in kept.items() if v in views}, views)


def refresh_facts(refresh: Mapping[str, RefreshSchedule]) -> dict[str, Any]:
    """View -> what a manifest keeps of its schedule, as JSON values."""
    return {view: schedule.to_dict() for view, schedule in sorted(refresh.items())}


def trained_texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """View -> the schedule that a ranker was trained with; empty for fresh rows, which all rankers
    of older versions had."""
    return {view: str(one["schedule"]) for view, one in (facts.get(FACT) or {}).items()}
