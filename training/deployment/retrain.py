"""The next ranker: whether one is needed, whether it is better, and then only its promotion. Reads:
a run, newer data, its catalogue. Writes `<run>/retrains/<as_of>_<hash>/`: joined rows and the
challenger (`training.deployment.challenger`), and, last, decision.json: reasons, gates, what became
of it.

    window = [as_of - window_days, as_of), later than anything champion or challenger learned from
    snapshot as of the window's start -> join -> reasons -> challenger on the rows before the window
    -> gates -> materialize, parity, pointer

Every step is kept under a name made of its inputs, so a killed command goes on where it was; a
finished one repeats its answer while all that the answer depended on is as it was
(`training.deployment.decisions`).
"""

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from adc_features.artifact import MANIFEST, file_hash, json_text, write_json
from adc_features.catalog import Catalog
from adc_features.catalog.tables import RUNS
from adc_features.errors import InputError
from adc_features.loader.frame import TrainingFrame
from adc_features.pipeline.publication_stages import loaded_as_of
from adc_features.pipeline.run import Run
from adc_features.pipeline.snapshots import refresh_statistics, snapshot
from adc_features.pipeline.stages import repository_of
from adc_features.ranking.trained import load_trained
from adc_features.serving.promotion import PROMOTION, Promotion, read_promotion
from training.deployment.challenger import (
    challenger_model,
    champion_of,
    judged_gauc,
    labelled_frame,
    live_of,
    sources_for,
)
from training.deployment.decisions import DECISION, ONLINE_GATE, remembered
from training.deployment.gates import Gate, changed_codes, code_gates, parity_gate, score_gates
from training.deployment.promotions import deploy
from training.deployment.reasons import CodeUse, Reason, reasons_to_train, usage_drift
from training.deployment.settings import RetrainSettings
from training.deployment.task import RetrainTask, answer_depends_on, retrain_task
from training.deployment.tracking import track
from training.deployment.windows import require_enough_rows
from training.evaluation.evaluate import code_coverage
from training.evaluation.metrics import PairedBootstrap, training_counts
from training.stages import parity_sample

log = logging.getLogger(__name__)


# half of it says what goes in and out
def retrain(
    run: Run,
    catalog: Catalog,
    *,
    as_of: datetime | None = None,
    source: str | None = None,
    generation: str | None = None,
    settings: RetrainSettings | None = None,
    complete_through: datetime | None = None,
    force: bool = False,
    at: datetime,
) -> dict[str, Any]:
    """Train the next ranker if there is reason to, and promote it if it is better.

    Parameters
    ----------
    run, catalog
        The deployment.
    as_of
        Aware, exclusive end of the labelled window; default just after the last event that the run
        may look at.
    source
        Newer data than the run's own, from the start on.
    generation
        A live generation for the challenger; default the champion's.
    settings
        When to train, and what a challenger must show.
    complete_through
        The data is complete up to here, whatever its last event is.
    force
        Train without a reason, and decide anew.
    at
        The time on record.

    Returns
    -------
    dict
        {"decision": "promoted" | "kept", "reasons", "gates", "champion", "challenger", ...};
        "reused" says whether it was decided before.

    Raises
    ------
    InputError
        The deployment as it was, when another retrain runs, the champion already learned from the
        window, or too few rows are new.
    """
    from adc_features.store import service_name

    with catalog.alone("retrain"):
        task = retrain_task(
            run,
            catalog,
            as_of=as_of,
            source=source,
            generation=generation,
            settings=settings or RetrainSettings(),
            complete_through=complete_through,
            at=at,
        )
        depends_on = {"depends_on": answer_depends_on(task, judged_gauc=judged_gauc(task))}
        champion = task.champion.ranker_hash
        done = remembered(run.directory, task.made_of(), depends_on, champion=champion, force=force)
        if done is not None:
            return {**done, "reused": True}
        number = _begin_record(catalog, task)
        try:
            answer = _decide(task, catalog, force=force)
        except BaseException as error:
            _end_record(catalog, number, "failed", {"error": str(error)}, at)
            raise
        facts = {k: answer[k] for k in ("reasons", "gates", "challenger")}
        _end_record(catalog, number, answer["decision"], facts, at)
        # the snapshot that the answer rests on was published while it was made
        depends_on = {"depends_on": answer_depends_on(task, judged_gauc=judged_gauc(task))}
        write_json(task.directory / DECISION, answer | depends_on)
    # a slow server holds no lock
    track(repository_of(run), answer, service=service_name(task.generation))
    return {**answer, "reused": False}


def _begin_record(catalog: Catalog, task: RetrainTask) -> int:
    """Put the retraining on record, and any that a kill left running; returns its number."""
    with catalog.write(at=task.at) as writer:
        for left in writer.rows(RUNS, command="retrain", state="running"):
            number = {"number": left["number"]}
            writer.put(RUNS, number, {"state": "killed"}, event="retrain_killed")
        row = {"command": "retrain", "started_at": task.at, "state": "running"}
        return writer.add(RUNS, {**row, "facts": task.facts()}, event="retrain_begun")


def _end_record(
    catalog: Catalog, number: int, state: str, facts: Mapping[str, Any], at: datetime
) -> None:
    plain = json.loads(json_text(facts))
    with catalog.write(at=at) as writer:
        writer.put(
            RUNS,
            {"number": number},
            {"state": state, "ended_at": at, "facts": plain},
            event=f"retrain_{state}",
        )


def _decide(task: RetrainTask, catalog: Catalog, *, force: bool) -> dict[str, Any]:
    """Reasons, then the challenger and its gates, then its promotion; each only after the one
    before asked for it.
    """
    log_rows, windows = task.dataset.interactions, task.windows
    times = log_rows["time"].to_numpy()
    require_enough_rows(
        windows, times, log_rows["label"].to_numpy(), min_rows=task.settings.min_rows
    )
    _publish(task)
    on = task.champion.generation
    rows = labelled_frame(task, on)
    window = rows.between(windows.start, windows.end)
    champion = champion_of(task).predict(window, sources_for(task, on))
    bootstrap = PairedBootstrap(window.labels, window.user_ids, seed=task.run.settings.seed)
    reasons = reasons_to_train(
        windows,
        times,
        task.settings,
        gauc=bootstrap.gauc(champion).value,
        judged_gauc=judged_gauc(task),
        codes=_code_use(task, rows, window) if on is not None else None,
    )
    _log_reasons(reasons)
    answer: dict[str, Any] = {
        "decision": "kept",
        "reasons": {name: reason.to_dict() for name, reason in reasons.items()},
        "gates": {},
        "champion": task.champion.ranker_hash,
        "challenger": None,
        "directory": str(task.directory),
        "window": {"start": windows.start, "end": windows.end, "rows": len(window)},
        "made_of": task.made_of(),
    }
    if not (force or any(reason.asks for reason in reasons.values())):
        return answer
    return answer | _challenge(task, catalog, bootstrap, champion, window)


def _challenge(
    task: RetrainTask,
    catalog: Catalog,
    bootstrap: PairedBootstrap,
    champion: np.ndarray,
    window: TrainingFrame,
) -> dict[str, Any]:
    """Train the challenger, judge it beside the champion's scores of the window, promote it if
    every gate holds; returns what that adds to the answer.
    """
    frame = labelled_frame(task, task.generation)
    model = challenger_model(task, catalog, frame)
    rows = frame.between(task.windows.start, task.windows.end)
    trained = load_trained(model, generation=task.generation)
    challenger = trained.predict(rows, sources_for(task, task.generation))
    before = frame.between(None, task.windows.start)
    gates = score_gates(
        bootstrap,
        champion=champion,
        challenger=challenger,
        popularity=training_counts(before.item_ids, rows.item_ids),
        settings=task.settings,
    )
    if task.generation is not None and task.champion.generation is not None:
        lost = code_coverage(window).with_codes - code_coverage(rows).with_codes
        gates |= code_gates(coverage_lost=lost, changed=_churn(task), settings=task.settings)
    if all(gate.passed for gate in gates.values()):
        gates[ONLINE_GATE] = parity_gate(_online_parity(task))
    _log_gates(gates)
    hash_ = file_hash(model / MANIFEST)
    found: dict[str, Any] = {
        "gates": {name: gate.to_dict() for name, gate in gates.items()},
        "challenger": hash_,
        "scores": {
            name: {"auc": bootstrap.auc(s).interval(), "gauc": bootstrap.gauc(s).interval()}
            for name, s in (("champion", champion), ("challenger", challenger))
        },
    }
    if not all(gate.passed for gate in gates.values()):
        return found
    _refuse_another_champion(task)
    codebook = live_of(task, task.generation).codebook_hash if task.generation else None
    pair = Promotion(model, hash_, task.repository, task.generation, codebook, task.at)
    return found | {
        "decision": "promoted",
        "promotion": deploy(task.run, catalog, pair, at=task.at),
    }


def _log_reasons(reasons: Mapping[str, Reason]) -> None:
    for name, r in reasons.items():
        log.info(
            "stage=retrain reason=%s asks=%s value=%s limit=%s", name, r.asks, r.value, r.limit
        )


def _log_gates(gates: Mapping[str, Gate]) -> None:
    for name, g in gates.items():
        log.info(
            "stage=retrain gate=%s passed=%s value=%s limit=%s", name, g.passed, g.value, g.limit
        )


def _publish(task: RetrainTask) -> None:
    """What the window's rows may read: statistics through its end or what is online already, codes
    as of its start in the run's own generation.
    """
    from adc_features.store import apply

    through = task.windows.end if task.source is None else _known_through(task)
    if not refresh_statistics(task.run, through, source=task.source):
        apply(task.repository)  # a run that was moved is declared where it lies now
    if task.run.settings.generation in (task.generation, task.champion.generation):
        snapshot(
            task.run,
            task.windows.start,
            source=task.source,
            complete_through=task.dataset.complete_through,
        )


def _known_through(task: RetrainTask) -> datetime:
    """The window's end, or later where the store is ahead of the labels, since it holds the newest
    values only.
    """
    from adc_features.store import materialized_through

    end = task.windows.end
    return max(end, materialized_through(task.repository) or end)


def _code_use(task: RetrainTask, rows: TrainingFrame, window: TrainingFrame) -> CodeUse:
    """How the window's rows use the champion's codes, beside as many days before the champion's
    end.
    """
    live, windows = live_of(task, str(task.champion.generation)), task.windows
    before = rows.between(windows.through - (windows.end - windows.start), windows.through)
    codes, now = (part.codes(live.length)[0] for part in (before, window))
    return CodeUse(
        1 - code_coverage(window).with_codes,
        usage_drift(codes, now, codebook_size=live.codebook_size),
    )


def _churn(task: RetrainTask) -> float:
    """Share of codes that the newest snapshots of both generations name otherwise."""
    from adc_features.store import published_timeline

    if task.generation == task.champion.generation:
        return 0.0
    old, new = (
        published_timeline(task.repository, str(generation)).snapshots[-1].table()[0]
        for generation in (task.champion.generation, task.generation)
    )
    return changed_codes(old, new)


def _online_parity(task: RetrainTask) -> dict[str, Any]:
    """Put everything that is known and holds by now online, and compare it with offline there, for
    a sample of users and items.
    """
    from adc_features.store import materialize, parity, service_name

    repo = task.repository
    now = loaded_as_of(repo, task.windows.end, clock=task.at)
    materialize(repo, now=now, progress=task.run.progress)
    log = task.dataset.before(task.windows.end)
    sample = parity_sample(
        task.dataset.items["item_id"], log["user_id"], seed=task.run.settings.seed
    )
    return parity(repo, service=service_name(task.generation), now=now, **sample)


def _refuse_another_champion(task: RetrainTask) -> None:
    path, ours = task.run.directory / PROMOTION, task.champion.ranker_hash
    if path.exists() and (now := read_promotion(path).ranker_hash) != ours:
        raise InputError(
            f"ranker {now[:12]} was promoted while the challenger of {ours[:12]} was judged;"
            " nothing was promoted, run the command again to judge it beside that one"
        )
