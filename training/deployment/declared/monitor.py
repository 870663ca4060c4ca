"""How far the inputs and scores of a ranker that serves have moved since it was trained. Reads:
what serves, a newer label log, the features of the service. Writes: findings, plain dicts.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.clock import instant, utc
from adc_features.codes.drift import DriftThresholds
from adc_features.errors import InputError
from adc_features.inputs.compatibility import differences, refuse
from adc_features.inputs.resolution import Resolution
from adc_features.ranking.base import Progress
from training.deployment.declared.champion import Champion, champion_of
from training.deployment.declared.judging import input_shifts
from training.ranker.joined import JoinedRows, join_log, request_fields
from training.ranker.label_sources import LabelSource
from training.ranker.labels import LabelLog, read_labels
from training.ranker.score_profile import score_drift


def monitor_ranker(
    repo: Path,
    name: str,
    source: LabelSource,
    *,
    as_of: datetime | None = None,
    days: int = 30,
    thresholds: DriftThresholds | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare the last days of a label log with what a ranker was trained on.

    Parameters
    ----------
    repo : Path
        A Feast repository.
    name : str
        Of a ranker that serves.
    source : LabelSource
        A label log; its labels are not read for this.
    as_of : datetime, optional
        Aware, exclusive end of the rows; by default just after the last one.
    days : int
        Of rows before it.
    thresholds : DriftThresholds, optional
        `unknown` bounds the rise of the share of an input's values that are absent or unknown,
        `usage` the distance of the scores of any task.
    progress : callable, optional
        Called with a label, steps done and their number.

    Returns
    -------
    dict
        {"ranker", "version", "rows", "beyond": [...], "inputs", "scores", "warnings"}.

    Raises
    ------
    InputError
        The ranker does not serve, the registry is not what it was trained on, or no row lies in
        the days.
    """
    from adc_features.store.services.schema import service_schema

    limits = thresholds or DriftThresholds()
    champion = champion_of(repo, name)
    trained = champion.trained
    schema = service_schema(repo, trained.ranker.service)
    found = differences(trained.pins, schema, log=request_fields(source, schema))
    refuse(found, use="serve")
    log = read_labels(source, schema=schema, ranker=trained.ranker, end=as_of)
    log = _last_days(log, as_of, days)
    resolved = Resolution(trained.ranker, trained.encoder.specs, ())
    joined = join_log(repo, schema, resolved, log, progress=progress)
    inputs, scores = _moved(champion, joined, limits)
    return {
        "ranker": name,
        "version": champion.pair.ranker.name,
        "rows": len(joined),
        "from": log.times.min(),
        "to": log.times.max(),
        "beyond": [
            what for part in (inputs, scores) for what, facts in part.items() if facts["beyond"]
        ],
        "inputs": inputs,
        "scores": scores,
        "warnings": [f.message for f in found if f.serve == "warn"],
    }


def _last_days(log: LabelLog, as_of: datetime | None, days: int) -> LabelLog:
    end = log.times.max() if as_of is None else instant(utc(as_of, name="as_of"))
    rows = np.flatnonzero(log.times >= end - np.timedelta64(timedelta(days=days), "us"))
    if not len(rows):
        raise InputError(
            f"no row of the log lies in the {days} days before {end}; widen --days, or give the log"
            " of that time"
        )
    return log.take(rows)


def _moved(
    champion: Champion, joined: JoinedRows, limits: DriftThresholds
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Inputs and tasks by name, each with its limit and whether it is beyond."""
    trained = champion.trained
    parts = joined.parts(np.arange(len(joined)))
    encoded = trained.encoder.encode(parts)
    shifts = input_shifts(trained.facts.get("inputs") or {}, trained.encoder.counts(parts, encoded))
    inputs: dict[str, dict[str, Any]] = {
        name: {**shift, "limit": limits.unknown, "beyond": max(shift.values()) > limits.unknown}
        for name, shift in shifts.items()
    }
    profiles = trained.facts.get("scores") or {}
    scores: dict[str, dict[str, Any]] = {}
    for task, p in zip(trained.ranker.tasks, trained.served(encoded)[1], strict=True):
        if (profile := profiles.get(task.name)) is None:
            continue
        moved = score_drift(profile, p)
        scores[task.name] = {
            "value": moved,
            "mean": float(p.mean()),
            "mean_then": profile["mean"],
            "limit": limits.usage,
            "beyond": moved > limits.usage,
        }
    return inputs, scores
