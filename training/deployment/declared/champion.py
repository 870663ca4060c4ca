"""The ranker of a feature service that serves, and what it knew. Reads: a promotion, its ranker,
what judged it. Writes: Champion, scores.

Legend: S seeds, T tasks, n rows of a window.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.clock import parse_utc
from adc_features.codes.sids import CodeTimeline
from adc_features.errors import ArtifactError, InputError
from adc_features.inputs.changes import Difference
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts
from adc_features.ranking.multitask.trained import TrainedRanker, load_ranker
from adc_features.serving.promotion import Promotion, check_promotion, read_promotion
from adc_features.serving.workspace import Workspace, evaluation_path
from training.deployment.decisions import DECISION
from training.ranker.joined import JoinedRows
from training.ranker.results import BY
from training.ranker.splits import LabelWindow


@dataclass(frozen=True)
class Champion:
    """The ranker that serves.

    Parameters
    ----------
    place : Workspace
        Of the ranker's versions.
    pair : Promotion
        What serves.
    trained : TrainedRanker
        The ranker.
    through : datetime
        Exclusive end of the rows that it was trained, calibrated or chosen on.
    judged : float or None
        Its GAUC of the first task where it was judged; None where nobody did.
    """

    place: Workspace
    pair: Promotion
    trained: TrainedRanker
    through: datetime
    judged: float | None


def champion_of(repo: Path, name: str) -> Champion:
    """The ranker of a repository that serves under a name.

    Raises
    ------
    InputError
        None was promoted.
    ArtifactError, GenerationMismatch
        It was altered since, see `check_promotion`.
    """
    place = Workspace(repo, name)
    if not place.promotion.is_file():
        raise InputError(
            f"ranker {name!r} of {repo} does not serve yet; run `adc promote --repo {repo} --ranker"
            f" {name}` first"
        )
    pair = read_promotion(place.promotion)
    check_promotion(pair)
    trained = load_ranker(pair.ranker)
    judged = judged_metric(place, pair.ranker, trained.facts)
    return Champion(place, pair, trained, _through(trained, pair.ranker), judged)


def _through(trained: TrainedRanker, path: Path) -> datetime:
    try:
        ends = [parse_utc(trained.facts["cutoff"])]
        if (validation := trained.facts.get("validation")) and validation["end"]:
            ends.append(parse_utc(validation["end"]))
    except (KeyError, TypeError, InputError) as error:
        raise ArtifactError(
            f"{path} does not say which rows it was trained on ({error!r}); train the ranker again"
        ) from error
    return max(ends)


def judged_metric(place: Workspace, version: Path, facts: Mapping[str, Any]) -> float | None:
    """GAUC of a version's first task (by request where requests are known) where it was judged: by
    the retraining that made it, else together with what was trained last; None where neither was.
    """
    if made_by := facts.get("retrained"):
        tasks, name = _tasks(place.directory / made_by / DECISION, "evaluation"), "challenger"
    else:
        path = evaluation_path(place.repo)
        judged = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        ours = judged.get("versions", {}).get(place.name) == version.name
        tasks, name = judged.get("tasks", {}) if ours else {}, place.name
    first: Mapping[str, Any] = next(iter(tasks.values()), {})
    scores = first.get("rankers", {}).get(name)
    if scores is None:
        return None
    means = [scores[m]["mean"] for m in BY if scores[m]]
    return next((float(m) for m in means if m is not None and np.isfinite(m)), None)


def _tasks(path: Path, name: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    tasks: dict[str, Any] = (answer.get(name) or {}).get("tasks", {})
    return tasks


def unreadable(found: Sequence[Difference]) -> frozenset[str]:
    """Inputs whose values the champion cannot read any more: of another type, looked up by other
    keys, or codes of another codebook.
    """
    lost = [f for f in found if f.retrain != "fine" and f.what in ("type", "keys", "codebook")]
    return frozenset(name for f in lost for name in f.inputs)


def champion_parts(
    champion: Champion, joined: JoinedRows, rows: np.ndarray, *, absent: Collection[str]
) -> Parts:
    """Rows (int64) as the champion reads them, the columns of the inputs `absent` null."""
    table = joined.table.take(pa.array(rows))
    for spec in champion.trained.encoder.specs:
        if spec.name in absent:
            table = _without(table, spec)
    timeline = joined.timeline
    if champion.trained.reads_timeline and champion.trained.generation != joined.generation:
        timeline = _timeline(champion)
    return Parts.joined(table, joined.log.times[rows], timeline=timeline)


def _without(table: pa.Table, spec: ResolvedInput) -> pa.Table:
    from adc_features.store.services.values import arrow_type

    for column in spec.columns.values():
        kind = arrow_type(column.dtype)
        nulls = pa.nulls(len(table), kind if kind is not None else pa.null())
        if column.name in table.column_names:
            place = table.column_names.index(column.name)
            table = table.set_column(place, column.name, nulls)
        else:
            table = table.append_column(column.name, nulls)
    return table


def _timeline(champion: Champion) -> CodeTimeline:
    from adc_features.store import published_timeline

    return published_timeline(champion.place.repo, str(champion.trained.generation))


def champion_scores(
    champion: Champion, joined: JoinedRows, window: LabelWindow, *, absent: Collection[str]
) -> np.ndarray:
    """Calibrated P(task) of a window's rows, float32 [S, T, n]."""
    parts = champion_parts(champion, joined, window.rows, absent=absent)
    return champion.trained.probabilities(champion.trained.encoder.encode(parts))
