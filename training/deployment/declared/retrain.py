"""The next ranker of a feature service: whether one is needed, whether it is better, and then only
its promotion. Reads: what serves, a newer label log, the features of the service. Writes:

<repo>/rankers/<name>/retrains/<as_of>_<hash>/challenger/   the challenger, while it is judged
<repo>/rankers/<name>/retrains/<as_of>_<hash>/decision.json last: reasons, gates, what became of it
<repo>/rankers/<name>/<version>/                            the challenger, once every gate holds

A killed command changes nothing that serves; run again it goes on with the challenger that it has.
A finished one repeats its answer while all that the answer was made of is as it was.
"""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import MANIFEST, file_hash, read_manifest, write_json
from adc_features.clock import utc
from adc_features.errors import InputError, ParityError
from adc_features.file_lock import file_lock
from adc_features.inputs.changes import Accept
from adc_features.ranking.base import Progress
from adc_features.ranking.multitask.trained import REFERENCE_ROWS, TrainedRanker, load_ranker
from adc_features.serving.promoted import promote_on_record
from adc_features.serving.promotion import read_promotion, trained_pair
from adc_features.serving.workspace import Workspace
from training.deployment.decisions import DECISION, ONLINE_GATE, remembered
from training.deployment.declared.champion import (
    champion_parts,
    champion_scores,
    unreadable,
)
from training.deployment.declared.judging import (
    Judge,
    input_shifts,
    reasons_to_train,
    scores_of,
)
from training.deployment.declared.task import RetrainTask, retrain_task
from training.deployment.gates import Gate
from training.deployment.settings import RetrainSettings
from training.ranker.fitting import TrainSettings, fit_then_refit, predictions
from training.ranker.joined import JoinedRows, join_log
from training.ranker.label_sources import LabelSource
from training.ranker.workflow import evaluate_window

log = logging.getLogger(__name__)
CHALLENGER = "challenger"
LOCK = ".retrain.lock"


# half of it says what goes in and out
def retrain_ranker(
    repo: Path,
    name: str,
    source: LabelSource,
    *,
    as_of: datetime | None = None,
    settings: RetrainSettings | None = None,
    accept: Collection[Accept] = (),
    force: bool = False,
    at: datetime,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the next ranker if there is reason to, and promote it if it is better.

    Parameters
    ----------
    repo : Path
        A Feast repository.
    name : str
        Of a ranker that serves.
    source : LabelSource
        A label log, from the start on.
    as_of : datetime, optional
        Aware: labels are as they were known then, and later rows are not read. By default just
        after the last row or label.
    settings : RetrainSettings, optional
        When to train, and what a challenger must show.
    accept : collection of str
        "inputs": inputs that read something else now start anew.
    force : bool
        Train without a reason, and decide anew.
    at : datetime
        Now, aware: names the version, and is on record.
    progress : callable, optional
        Called with a label, steps done and their number.

    Returns
    -------
    dict
        {"decision": "promoted" | "kept", "reasons", "gates", "scores", ...}; "reused" says whether
        it was decided before.

    Raises
    ------
    InputError
        With everything as it was: the registry differs, the log cannot be learned from, too few
        rows are new, another retraining of this ranker runs, or another ranker was promoted
        meanwhile.
    """
    place, at = Workspace(repo, name), utc(at, name="at")
    settings = settings or RetrainSettings()
    task = retrain_task(repo, name, source, as_of=as_of, settings=settings, accept=accept)
    with file_lock(place.directory / LOCK) as taken:
        if not taken:
            raise InputError(
                f"another retraining of ranker {name!r} of {repo} is running; wait for its end"
            )
        done = remembered(
            place.directory,
            task.made_of,
            {"depends_on": None},
            champion=task.champion.pair.ranker_hash,
            force=force,
        )
        if done is not None:
            return {**done, "reused": True}
        answer = _decide(task, at=at, force=force, progress=progress)
        task.directory.mkdir(parents=True, exist_ok=True)
        write_json(task.directory / DECISION, answer)
    return {**answer, "reused": False}


def _decide(
    task: RetrainTask, *, at: datetime, force: bool, progress: Progress | None
) -> dict[str, Any]:
    """Reasons, then the challenger and its gates, then its promotion; each only after the one
    before asked for it.
    """
    champion, window = task.champion, task.windows.judged
    joined = join_log(
        champion.place.repo,
        task.schema,
        task.resolution,
        task.log,
        also=champion.trained.features,
        refresh=task.refresh,
        progress=progress,
    )
    judge = Judge(joined, task.windows, seed=_settings(task).seed)
    absent = unreadable(task.found)
    scores = champion_scores(champion, joined, window, absent=absent)
    encoder = champion.trained.encoder
    counts = encoder.counts(champion_parts(champion, joined, window.rows, absent=absent))
    shifts = input_shifts(champion.trained.facts.get("inputs") or {}, counts)
    reasons = reasons_to_train(
        champion,
        task.windows,
        task.settings,
        metric=judge.metric(scores)[1].value,
        shifts=shifts,
        scores=scores[0],
    )
    for name, r in reasons.items():
        log.info(
            "stage=retrain reason=%s asks=%s value=%s limit=%s", name, r.asks, r.value, r.limit
        )
    answer: dict[str, Any] = {
        "decision": "kept",
        "ranker": champion.trained.name,
        "decided_at": at,
        "labels": task.source,
        "reasons": {name: reason.to_dict() for name, reason in reasons.items()},
        "gates": {},
        "champion": champion.pair.ranker_hash,
        "challenger": None,
        "version": None,
        "directory": str(task.directory),
        "window": _window_facts(task),
        "inputs": shifts,
        "noticed": [f.message for f in task.found],
        "anew": sorted(task.anew),
        "absent_for_the_champion": sorted(absent),
        "made_of": task.made_of,
        "depends_on": None,
    }
    if not (force or any(reason.asks for reason in reasons.values())):
        return answer
    return answer | _challenge(task, joined, judge, scores, at=at, progress=progress)


def _window_facts(task: RetrainTask) -> dict[str, Any]:
    windows = task.windows
    masks = zip(task.log.tasks, windows.judged.mask, windows.judged.labels, strict=True)
    return {
        "through": windows.through,
        "start": windows.start,
        "end": windows.end,
        "rows": len(windows.judged),
        "unripe": windows.judged.unlabelled,
        "learned": len(windows.final),
        "new": windows.new,
        "tasks": {t.name: {"rows": m.sum(), "positives": y.sum()} for t, m, y in masks},
        "attribution_days": {n: d.total_seconds() / 86_400 for n, d in windows.attribution.items()},
    }


def _challenge(
    task: RetrainTask,
    joined: JoinedRows,
    judge: Judge,
    champion: np.ndarray,
    *,
    at: datetime,
    progress: Progress | None,
) -> dict[str, Any]:
    """Train the challenger, judge it beside the champion's scores, promote it if every gate holds;
    what that adds to the answer.
    """
    path = challenger_ranker(task, joined, progress=progress)
    trained = load_ranker(path)
    challenger = predictions(trained, joined, task.windows.judged)
    gates = judge.gates(champion, challenger, task.settings)
    noticed: list[str] = []
    if all(gate.passed for gate in gates.values()):
        gates[ONLINE_GATE], noticed = _online_gate(task, path, at=at)
    for name, g in gates.items():
        log.info(
            "stage=retrain gate=%s passed=%s value=%s limit=%s", name, g.passed, g.value, g.limit
        )
    both = {"champion": champion, "challenger": challenger}
    evaluation = evaluate_window(joined, task.windows.judged, both, seed=_settings(task).seed)
    facts = evaluation.to_dict()
    found: dict[str, Any] = {
        "gates": {name: gate.to_dict() for name, gate in gates.items()},
        "challenger": file_hash(path / MANIFEST),
        "evaluation": facts,
        "scores": scores_of(facts),
        "warm_start": trained.facts["warm_start"],
        "noticed": [*(f.message for f in task.found), *noticed],
    }
    if not all(gate.passed for gate in gates.values()):
        return found
    return found | _promoted(task, path, at=at)


def _online_gate(task: RetrainTask, path: Path, *, at: datetime) -> tuple[Gate, list[str]]:
    """Whether the challenger's reference rows read and score online as offline, and what there is
    to say of it. Raises InputError where it cannot serve at all.
    """
    from adc_features.serving.both_paths import check_both_paths
    from adc_features.serving.declared import open_declared

    bundle = open_declared(trained_pair(task.champion.place.repo, path, at=at))
    try:
        return Gate(True, 0, 0), list(check_both_paths(bundle, at=at))
    except ParityError as error:
        return Gate(False, 1, 0), [str(error)]


def challenger_ranker(
    task: RetrainTask, joined: JoinedRows, *, progress: Progress | None = None
) -> Path:
    """The challenger's directory: the champion's declaration, trained on every row that was ripe
    when the judged window begins; or found there complete, or as the version that it became.
    """
    path = task.directory / CHALLENGER
    if (path / MANIFEST).is_file():
        return path
    for version in task.champion.place.versions():
        if load_facts(version).get("retrained") == task.name:
            return version
    windows = task.windows
    trained = fit_then_refit(
        joined,
        windows.train,
        windows.calibration,
        windows.final,
        _settings(task),
        start=task.champion.trained,
        anew=task.anew,
        progress=progress,
    )
    facts = {"retrained": task.name, "champion": task.champion.pair.ranker_hash}
    _named(trained, facts).save(path, reference=joined.table.slice(0, REFERENCE_ROWS))
    return path


def load_facts(version: Path) -> Mapping[str, Any]:
    """How a version was trained."""
    facts: Mapping[str, Any] = read_manifest(version, verify=False)["facts"]
    return facts


def _named(trained: TrainedRanker, facts: Mapping[str, Any]) -> TrainedRanker:
    return replace(trained, facts={**trained.facts, **facts})


def _settings(task: RetrainTask) -> TrainSettings:
    """As the champion was trained."""
    return TrainSettings(**task.champion.trained.facts["settings"])


def _promoted(task: RetrainTask, path: Path, *, at: datetime) -> dict[str, Any]:
    """Let the challenger serve: moved among the versions by one rename, then promoted."""
    place = task.champion.place
    now = read_promotion(place.promotion).ranker_hash
    if now != task.champion.pair.ranker_hash:
        raise InputError(
            f"ranker {now[:12]} was promoted while the challenger of"
            f" {task.champion.pair.ranker_hash[:12]} was judged; nothing was promoted, run the"
            " command again to judge it beside that one"
        )
    if path.name == CHALLENGER:
        version = place.version(at)
        os.rename(path, version)
        path = version
    pair = trained_pair(place.repo, path, at=at)
    number = promote_on_record(place, pair, why=f"retrained: {task.name}")
    return {"decision": "promoted", "version": path.name, "promotion": number, "pair": pair.name}
