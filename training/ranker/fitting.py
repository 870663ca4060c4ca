"""Fit a ranker of a feature service. Reads: JoinedRows, a window of them. Writes: TrainedRanker.

The newest tenth of the window's rows chooses the number of rounds, by a model of the first seed
that did not see them; then every seed is fitted on all of it. Tasks are calibrated on a later
window that no model saw.

Legend: N rows, T tasks, n rows of the window.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from adc_features.clock import parse_utc
from adc_features.devices import DEVICES
from adc_features.errors import InputError
from adc_features.inputs.renewal import cold_inputs
from adc_features.inputs.rows import Parts
from adc_features.ranking.base import Progress, Round
from adc_features.ranking.multitask.score import Calibration
from adc_features.ranking.multitask.trained import TrainedRanker
from training.ranker.calibration import fit_calibrations
from training.ranker.joined import JoinedRows
from training.ranker.joined_files import JoinedFiles
from training.ranker.learned import EncodedInMemory, EncodedRows, LearnedRows
from training.ranker.learned_files import EncodedInFiles
from training.ranker.models import ModelFit, Rounds
from training.ranker.refresh import FACT, refresh_facts
from training.ranker.sampling import NegativeSampling
from training.ranker.score_profile import score_profiles
from training.ranker.splits import LabelWindow

log = logging.getLogger(__name__)
HOLDOUT = 0.1
"""Share of the window's rows, the newest, that choose the rounds."""


@dataclass(frozen=True)
class TrainSettings:
    """How a ranker is trained.

    Parameters
    ----------
    seeds : int
        Models, each of its own chance; the first serves.
    seed : int
        The first of them.
    quick : bool
        One round of each, without held-out rows that choose how many: an answer in a fraction of
        the time, to see whether something works and about how well.
    keep_negatives : float
        Share of rows without a positive that are kept; they count 1 / share.
    device : {"cpu", "auto", "cuda"}
        Where models are trained; see `adc_features.devices`.
    """

    seeds: int = 3
    seed: int = 0
    quick: bool = False
    keep_negatives: float = 1.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"seeds is {self.seeds}; expected at least 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; expected at least 0")
        if self.device not in DEVICES:
            raise InputError(f"device is {self.device!r}; expected one of {', '.join(DEVICES)}")
        NegativeSampling(self.keep_negatives)  # refused now, and not once all rows are joined

    def to_dict(self) -> dict[str, Any]:
        """What a trained ranker keeps: a device that older versions do not know only where it is
        not theirs.
        """
        return {k: v for k, v in asdict(self).items() if k != "device" or v != "cpu"}


def fit_ranker(
    joined: JoinedRows,
    window: LabelWindow,
    settings: TrainSettings,
    *,
    validation: LabelWindow | None = None,
    calibration: Sequence[Calibration] | None = None,
    start: TrainedRanker | None = None,
    anew: Collection[str] = (),
    progress: Progress | None = None,
) -> TrainedRanker:
    """Fit the encoders and the models of a ranker on a window.

    Parameters
    ----------
    joined : JoinedRows
        The ranker's rows.
    window : LabelWindow
        Those that are learned from.
    settings : TrainSettings
        How.
    validation : LabelWindow, optional
        Later rows, on which the tasks are calibrated.
    calibration : sequence of Calibration, optional
        Known already, where every labelled row is learned from.
    start : TrainedRanker, optional
        An older ranker of the same declaration, for a warm start: its vocabularies grow, its scales
        stay, and its parameters are begun with.
    anew : collection of str
        Inputs of which `start` knows nothing any more: see `inputs.renewal`.
    progress : callable, optional
        Called with a label, steps done and their number.

    Raises
    ------
    InputError
        What cannot be encoded or learned from, naming input, column and value.
    """
    slates = bool(joined.ranker.listwise)
    sampling = NegativeSampling(settings.keep_negatives, settings.seed, slates=slates)
    rows = LearnedRows.of(joined, window, sampling)
    cold = cold_inputs(joined.resolution.inputs, anew) if start else frozenset()
    learned = _encoded(joined, rows, start, cold, seed=settings.seed)
    encoder = learned.encoder
    seeds = range(settings.seed, settings.seed + settings.seeds)
    older = start.models.get(seeds[0]) if start else None
    model = ModelFit(joined.ranker, encoder, older, cold, progress, settings.device)
    rounds: Rounds = model.least_rounds
    curve: list[Round] = []
    if not settings.quick:
        before, newest = older_and_newest(rows.times, rows.mask)
        held = learned.held_out(newest)
        rounds, curve = model.rounds(learned.before(before), held, seed=seeds[0])
    labelled = learned.whole()
    models = {seed: model.fit(labelled, seed=seed, rounds=rounds) for seed in seeds}
    later: np.ndarray | None = None
    if calibration is None:
        calibration = (Calibration(),) * len(joined.ranker.tasks)
        if validation is not None:
            first = models[seeds[0]]
            later = _piece_by_piece(joined, validation, lambda p: first.predict(encoder.encode(p)))
            own = joined.log.weights[validation.rows]
            calibration = fit_calibrations(later, validation, weights=own)
    told = joined.name, len(rows.rows), len(models), rounds
    log.info("stage=train ranker=%s rows=%d seeds=%d rounds=%s", *told)
    trained = TrainedRanker(
        name=joined.name,
        ranker=joined.ranker,
        pins=joined.pins,
        encoder=encoder,
        models=models,
        features=joined.features,
        calibration=tuple(calibration),
        generation=joined.generation,
        facts={
            **_rows_facts(joined, rows, window),
            "inputs": learned.counts,
            "settings": settings.to_dict(),
            "sampling": sampling.to_dict(),
            "rounds": rounds,
            "curve": [r._asdict() for r in curve],
            "warm_start": start is not None,
            "anew": sorted(cold),
            "validation": None if validation is None else _span(validation),
        },
    )
    return trained if later is None else _profiled(trained, later)


def _profiled(trained: TrainedRanker, later: np.ndarray) -> TrainedRanker:
    """With the spread of its scores among its facts. later: P(task) of the first model on later
    rows, not calibrated, [T, n]."""
    names = [task.name for task in trained.ranker.tasks]
    profiles = score_profiles(trained.calibrated(later), names)
    return replace(trained, facts={**trained.facts, "scores": profiles})


def _encoded(
    joined: JoinedRows,
    rows: LearnedRows,
    start: TrainedRanker | None,
    cold: Collection[str],
    *,
    seed: int,
) -> EncodedRows:
    """The rows where the joined ones are: in memory or in files."""
    if not isinstance(joined, JoinedFiles):
        return EncodedInMemory.of(joined, rows, start=start, cold=cold, seed=seed)
    if start is not None:
        raise InputError(
            f"ranker {joined.name!r} is to go on from an older one, which takes rows in memory;"
            " these are in files: train it anew, or join in memory"
        )
    return EncodedInFiles.of(joined, rows, seed=seed)


def _rows_facts(joined: JoinedRows, rows: LearnedRows, window: LabelWindow) -> dict[str, Any]:
    return {
        "rows": len(rows.rows),
        "first": joined.log.times[rows.rows].min(),
        "cutoff": window.cutoff,
        "positives": dict(zip(_names(joined), rows.labels.sum(axis=1).tolist(), strict=True)),
        "matched": dict(joined.matched),
        FACT: refresh_facts(joined.refresh),
        **({"tables": tables} if (tables := joined.tables) else {}),
    }


def fit_then_refit(
    joined: JoinedRows,
    train: LabelWindow,
    validation: LabelWindow,
    final: LabelWindow,
    settings: TrainSettings,
    *,
    start: TrainedRanker | None = None,
    anew: Collection[str] = (),
    progress: Progress | None = None,
) -> TrainedRanker:
    """A ranker of every row of `final`, which holds the other two windows: calibrated, and its
    scores profiled, by one model that has not seen the validation rows. Raises as `fit_ranker`.
    """
    first = fit_ranker(
        joined,
        train,
        replace(settings, seeds=1),
        validation=validation,
        start=start,
        anew=anew,
        progress=progress,
    )
    trained = fit_ranker(
        joined,
        final,
        settings,
        calibration=first.calibration,
        start=start,
        anew=anew,
        progress=progress,
    )
    known = {name: first.facts[name] for name in ("validation", "scores")}
    return replace(trained, facts={**trained.facts, **known})


def _span(window: LabelWindow) -> dict[str, datetime | None]:
    return {"start": window.start, "end": window.end}


def require_unseen(trained: TrainedRanker, window: LabelWindow) -> None:
    """Raise InputError when a ranker was trained on rows that it would be judged on: the window
    begins before the cut-off of its training.
    """
    cutoff = parse_utc(str(trained.facts["cutoff"]), name="cut-off of the training")
    if window.start is None or window.start < cutoff:
        begins = "at the beginning" if window.start is None else window.start.isoformat()
        raise InputError(
            f"ranker {trained.name!r} was trained on rows up to {cutoff.isoformat()}, the"
            f" {window.name} window begins {begins}: it has seen rows of it, and would look better"
            " than it is. Judge it on later rows: a newer log, other --validation-start and"
            " --test-start, or --final"
        )


def predictions(trained: TrainedRanker, joined: JoinedRows, window: LabelWindow) -> np.ndarray:
    """Calibrated P(task) of a window's rows, float32 [S, T, n]."""
    encoder = trained.encoder
    return _piece_by_piece(joined, window, lambda p: trained.probabilities(encoder.encode(p)))


def _piece_by_piece(
    joined: JoinedRows, window: LabelWindow, scores: Callable[[Parts], np.ndarray]
) -> np.ndarray:
    """Scores [..., n] of a window's rows, of which a piece is in memory at a time."""
    found: np.ndarray | None = None
    for where, parts in joined.pieces(window.rows):
        piece = scores(parts)
        if found is None:
            found = np.empty((*piece.shape[:-1], len(window.rows)), piece.dtype)
        found[..., where] = piece
    assert found is not None  # a window has rows of both classes
    return found


def _names(joined: JoinedRows) -> list[str]:
    return [task.name for task in joined.ranker.tasks]


def older_and_newest(times: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the older rows, and of the newest `HOLDOUT` of them, which choose the rounds.

    They are split between two times. Labels of a task that ripen late may be missing in the newest
    rows: then so many more are held out that every task has a say.

    Parameters
    ----------
    times : ndarray
        datetime64 [n], of the rows' requests.
    mask : ndarray
        bool [T, n]: where the label of a task counts.

    Raises
    ------
    InputError
        When all rows are of one time.
    """
    cut = _newest(times)
    unheard = [task for task in mask if task.any() and not task[times >= cut].any()]
    cut = min([cut, *(_newest(times[task]) for task in unheard)])
    if cut == times.min():
        later = times[times > cut]
        if not len(later):
            raise InputError(
                f"all {len(times)} rows to learn from are of one time, {cut}, and the newest of"
                " them are to choose the number of rounds; bring a longer log, or train with"
                " --quick, which chooses nothing"
            )
        cut = later.min()
    return np.flatnonzero(times < cut), np.flatnonzero(times >= cut)


def _newest(times: np.ndarray) -> Any:
    """The time with which the newest `HOLDOUT` begin."""
    return np.sort(times)[int(len(times) * (1 - HOLDOUT))]
