"""The same rows, split and budget for every tokenizer, over windows that roll through time. Reads:
a data source. Writes a comparison directory:

<out>/run/                        data and text vectors (stages of a run)
<out>/behavior/<recipe>/<fit>/    behaviour vectors as of every cut-off, from one chronological pass
<out>/frame/                      all labelled rows with the statistics that were knowable at each
<out>/cells/<window>_<variant>_<fit>/   one trial, a tokenizer on one window: scores of its rankers,
                                        quality, costs; `without_codes` and `baselines` beside
                                        the variants

Window w scores the rows [start, end). Everything that it uses is made of earlier rows: the
tokenizer is fitted on vectors as of cut-offs up to its start, frozen, and encodes every one of
them, so a training row sees the codes that were servable at its time; rankers train on the rows
before the start. Behaviour as of a cut-off comes from events before it only, so one pass over all
cut-offs serves every window. A fit is all of this once more with other seeds: behaviour vectors,
tokenizer and rankers. Trials are independent, found again when complete, and may run in several
processes; a window with labels of one class is left out and counted.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.data.dataset import Dataset
from adc_features.errors import InputError
from adc_features.pipeline.run import Progress, Run, RunSettings
from adc_features.pipeline.stages import DATA, TEXT, dataset_of
from training.comparison.inputs import ensure_behavior, ensure_frame
from training.comparison.plan import ComparisonSettings, Window, newest_of_users, windows_of
from training.comparison.trial import Trial, TrialTask, ensure_trial, is_complete, read_trial

log = logging.getLogger(__name__)


def compare(
    out: Path, settings: ComparisonSettings, *, jobs: int = 1, progress: Progress | None = None
) -> tuple[list[Trial], dict[str, Any]]:
    """Every trial of the comparison, made or found, and {"windows", "left_out"}. jobs: processes
    that fit and train side by side.

    With `final` the opening of the test rows is logged in <out>/run/events.jsonl. Raises InputError
    before any work on settings that cannot be met.
    """
    run = Run.start(
        Path(out) / "run",
        RunSettings(source=settings.source, seed=settings.seed, text_model=settings.text_model),
        progress=progress,
    )
    run.ensure(DATA)
    dataset = dataset_of(run)
    kept, left_out = _with_both_classes(dataset, windows_of(dataset, settings))
    if settings.final:
        run.record(
            "test_rows_opened",
            windows=[asdict(w) for w in kept],
            variants=[v.name for v in settings.variants],
        )
    run.ensure(TEXT)
    learned = (
        settings.behavior_of(variant, fit)
        for variant in (None, *settings.variants)
        for fit in range(settings.fits)
    )
    for recipe, fit in sorted(set(learned)):
        ensure_behavior(run, out, settings, kept, recipe=recipe, fit=fit)
    ensure_frame(run, out, settings)
    tasks = [
        task
        for fit in range(settings.fits)
        for window in kept
        for task in (
            *(TrialTask(window, variant, fit) for variant in (None, *settings.variants)),
            TrialTask(window, None, fit, baselines=True),
        )
    ]
    _ensure_all(out, settings, tasks, jobs=jobs, progress=progress)
    return [read_trial(out, task) for task in tasks], {"windows": kept, "left_out": left_out}


def _with_both_classes(
    dataset: Dataset, windows: Sequence[Window]
) -> tuple[list[Window], list[str]]:
    """The windows that can be scored, and the names of those whose labels have one class."""
    kept = [w for w in windows if len(np.unique(_labels(dataset, w))) == 2]
    left_out = [w.name for w in windows if w not in kept]
    for name in left_out:
        log.warning("stage=compare window=%s left_out=true reason=labels of one class", name)
    if not kept:
        raise InputError(
            f"none of the windows {left_out} holds labels of both classes; ask for longer ones"
        )
    return kept, left_out


def _labels(dataset: Dataset, window: Window) -> np.ndarray:
    """Of the rows that a window scores."""
    if not window.per_user:
        return dataset.within(window.start, window.end)["label"].to_numpy()
    rows = dataset.before(window.end)
    newest = newest_of_users(rows["user_id"].to_numpy(), rows["time"].to_numpy())
    return rows["label"].to_numpy()[newest]


def _ensure_all(
    out: Path,
    settings: ComparisonSettings,
    tasks: Sequence[TrialTask],
    *,
    jobs: int,
    progress: Progress | None,
) -> None:
    waiting = [task for task in tasks if not is_complete(out, settings, task)]
    done = len(tasks) - len(waiting)
    log.info("stage=compare trials=%d found=%d", len(tasks), done)

    def tell() -> None:
        nonlocal done
        done += 1
        if progress:
            progress("compare", done, len(tasks))

    if jobs == 1 or len(waiting) < 2:
        for task in waiting:
            ensure_trial(out, settings, task)
            log.info("stage=compare trial=%s done=true", task.name)
            tell()
        return
    spawned = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawned, initializer=_one_thread) as pool:
        for finished in as_completed(
            [pool.submit(ensure_trial, out, settings, task) for task in waiting]
        ):
            finished.result()
            tell()


def _one_thread() -> None:
    """A worker beside others: more threads than cores wait for each other."""
    import torch

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
