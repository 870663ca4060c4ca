"""Why the next ranker of a feature service is trained, and whether it is better. Reads: scores,
labels and inputs of the judged window. Writes: Reasons, Gates.

Legend: S seeds, T tasks, n rows of the window.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import numpy as np

from training.deployment.declared.champion import Champion
from training.deployment.declared.service_windows import RetrainWindows
from training.deployment.gates import Gate
from training.deployment.reasons import Reason
from training.deployment.settings import RetrainSettings
from training.evaluation.metrics import Estimate, PairedBootstrap, popularity_slices
from training.ranker.joined import JoinedRows
from training.ranker.labels import group_numbers
from training.ranker.metrics import TaskRows
from training.ranker.results import BY
from training.ranker.score_profile import score_drift


def input_shifts(
    before: Mapping[str, Mapping[str, int]], now: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, float]]:
    """Input -> {"absent", "unknown"}: by how much the share of its values in that state rose.

    before, now: of `InputEncoder.counts`; inputs that only one of them has are left out.
    """
    shifts = {}
    for name in before.keys() & now.keys():
        old, new = _shares(before[name]), _shares(now[name])
        shifts[name] = {state: new[state] - old[state] for state in ("absent", "unknown")}
    return dict(sorted(shifts.items()))


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {s: counts[s] / total if total else 0.0 for s in ("absent", "unknown")}


def reasons_to_train(
    champion: Champion,
    windows: RetrainWindows,
    settings: RetrainSettings,
    *,
    metric: float,
    shifts: Mapping[str, Mapping[str, float]],
    scores: np.ndarray,
) -> dict[str, Reason]:
    """Each reason by name; any one of them is enough to train.

    metric: the champion's, in the judged window. shifts: of `input_shifts`. scores: P(task) of the
    champion's first model in the window, [T, n].
    """
    days = (windows.end - windows.through) / timedelta(days=1)
    found = {
        "days_since_champion": Reason(days, settings.every_days, days >= settings.every_days),
        "new_rows": Reason(
            windows.new, settings.min_new_rows, windows.new >= settings.min_new_rows
        ),
    }
    above: dict[str, tuple[float, float]] = {}
    for state in ("absent", "unknown"):
        rise = max((shift[state] for shift in shifts.values()), default=0.0)
        above[f"{state}_share"] = (rise, settings.max_uncoded)
    profiles = champion.trained.facts.get("scores") or {}
    moved = [
        score_drift(profiles[task.name], p[windows.judged.mask[row]])
        for row, (task, p) in enumerate(zip(champion.trained.ranker.tasks, scores, strict=True))
        if task.name in profiles
    ]
    if moved:
        above["score_drift"] = (max(moved), settings.max_usage_drift)
    if champion.judged is not None:
        above["gauc_drop"] = (champion.judged - metric, settings.max_gauc_drop)
    return found | {
        name: Reason(value, limit, bool(value > limit)) for name, (value, limit) in above.items()
    }


class Judge:
    """Champion and challenger on the judged rows, on the same draws of users.

    Parameters
    ----------
    joined : JoinedRows
        The rows.
    windows : RetrainWindows
        Those that are judged, and those before.
    seed : int
        Of the bootstrap.
    """

    def __init__(self, joined: JoinedRows, windows: RetrainWindows, *, seed: int) -> None:
        self._joined, self._windows, self._log = joined, windows, joined.log
        self.tasks = [task.name for task in joined.ranker.tasks]
        window = windows.judged
        self._rows: list[tuple[np.ndarray, TaskRows]] = []
        for labels, mask in zip(window.labels, window.mask, strict=True):
            kept = np.flatnonzero(mask)
            label = labels[kept].astype(np.float64)
            bootstrap = PairedBootstrap(label, self._users()[kept], seed)
            requests = None if self._log.requests is None else self._log.requests[window.rows[kept]]
            numbers = None if requests is None else np.unique(requests, return_inverse=True)[1]
            by_user = self._log.users is not None
            self._rows.append((kept, TaskRows(bootstrap, numbers, by_user=by_user)))

    def _users(self) -> np.ndarray:
        """What is resampled: users, else requests, else rows."""
        rows, log = self._windows.judged.rows, self._log
        for numbers in (log.users, log.requests):
            if numbers is not None:
                return numbers[rows]
        return np.arange(len(rows))

    def metric(self, scores: np.ndarray, task: int = 0) -> tuple[str, Estimate]:
        """The first defined metric of BY: its name and value for P(task) [S, T, n]."""
        kept, rows = self._rows[task]
        found = rows.estimates(scores[:, task, kept])
        name = next(m for m in BY if m in found and np.isfinite(found[m].value))
        return name, found[name]

    def gates(
        self, champion: np.ndarray, challenger: np.ndarray, settings: RetrainSettings
    ) -> dict[str, Gate]:
        """What the challenger must show; champion, challenger: P(task) [S, T, n].

        The first task's metric gains, with a bound; no other task, and no slice of the first,
        loses with certainty; no task is miscalibrated beyond the limit with certainty.
        """
        gates: dict[str, Gate] = {}
        for task, name in enumerate(self.tasks):
            metric, theirs = self.metric(challenger, task)
            gain = (theirs - self._metric(champion, task, metric)).interval()
            if task == 0:
                gates[f"{name}_{metric}_gain"] = Gate(
                    gain["mean"] >= settings.min_gain and gain["low"] >= -settings.max_loss,
                    gain,
                    {"mean": settings.min_gain, "low": -settings.max_loss},
                )
            else:
                gates[f"{name}_{metric}_loss"] = _no_certain_loss(gain)
        for name, part in self._slices():
            kept, rows = self._rows[0]
            pair = (rows.bootstrap.auc(s[:, 0, kept], part) for s in (challenger, champion))
            gates[f"{name}_auc"] = _no_certain_loss((next(pair) - next(pair)).interval())
        for task, name in enumerate(self.tasks):
            gates[f"{name}_calibration"] = self._calibrated(challenger, task, settings)
        return gates

    def _metric(self, scores: np.ndarray, task: int, name: str) -> Estimate:
        kept, rows = self._rows[task]
        return rows.estimates(scores[:, task, kept])[name]

    def _calibrated(self, scores: np.ndarray, task: int, settings: RetrainSettings) -> Gate:
        """Observed over expected is not further from 1 than the limit with certainty: a window with
        few positives cannot tell."""
        limit = settings.max_miscalibration
        ratio = self._metric(scores, task, "calibration").interval()
        within = ratio["low"] <= 1 + limit and ratio["high"] >= 1 - limit
        return Gate(bool(within), ratio, {"low": 1 - limit, "high": 1 + limit})

    def _slices(self) -> Iterator[tuple[str, np.ndarray]]:
        """Slices of the first task's rows by how often their item and their user were learned from:
        name and bool mask [n of the task].
        """
        kept, _ = self._rows[0]
        ranker, rows = self._joined.ranker, self._windows.judged.rows[kept]
        learned = self._windows.final.rows
        for side, keys in (("item", ranker.item), ("user", ranker.user)):
            if not keys:
                continue
            numbers = group_numbers(self._log.table.select(list(keys)), keys)
            counts = np.bincount(numbers[learned], minlength=int(numbers.max()) + 1)[numbers[rows]]
            parts = popularity_slices(counts)
            names = ("head", "tail", "cold") if side == "item" else ("cold",)
            for name in names:
                yield f"{'new' if name == 'cold' else name}_{side}s", parts[name]


def _no_certain_loss(gain: Mapping[str, float]) -> Gate:
    """An undefined difference refuses nobody."""
    return Gate(not gain["high"] < 0, dict(gain), {"high": 0.0})


def scores_of(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Ranker -> its scores on the first task."""
    task: Mapping[str, Any] = next(iter(evaluation["tasks"].values()))
    return dict(task["rankers"])
