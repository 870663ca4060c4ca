"""Which rows a ranker of several tasks is trained, chosen and tested on. Reads: LabelLog, Windows.
Writes: Splits.

        train      | validation |    test
    ---------------|------------|------------|---> time of a request's first row
                   |                         end of the data
    labels as known here                and here

Legend: T tasks, n rows of a window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from adc_features.clock import instant, utc
from adc_features.data.windows import Windows, quantile_windows
from adc_features.errors import InputError
from training.ranker.labels import LabelLog
from training.ranker.ripening import duration_text, given_order


@dataclass(frozen=True)
class LabelWindow:
    """The rows of one window that have a label of some task.

    Parameters
    ----------
    name : str
        "train", "final_train", "validation" or "test".
    start, end : datetime, optional
        start <= time of a request's first row < end; None leaves that side open.
    cutoff : datetime
        Labels are as they were known then.
    rows : ndarray
        int64 [n], places in the log, increasing.
    labels, mask : ndarray
        float32 and bool [T, n].
    unlabelled : int
        Rows of the window without a label of any task at the cut-off; they are left out.
    """

    name: str
    start: datetime | None
    end: datetime | None
    cutoff: datetime
    rows: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    unlabelled: int

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Splits:
    """Three windows, and everything before the test for the last fit.

    train: rows before the validation, ripe when it begins. validation, test: ripe at the data's
    end. final_train: rows before the test, ripe when it begins. windows: task -> attribution
    window, as of the train cut-off, for all of them.
    """

    train: LabelWindow
    validation: LabelWindow
    test: LabelWindow
    final_train: LabelWindow
    windows: Mapping[str, timedelta]


def split_labels(
    log: LabelLog, windows: Windows | None = None, *, end: datetime | None = None
) -> Splits:
    """The windows of a label log; a request's rows go where its first row goes.

    Parameters
    ----------
    log : LabelLog
        Of N rows.
    windows : Windows, optional
        By default validation from the day of the 80 % row and test from the day of the 90 % row.
    end : datetime, optional
        Until when the log knows what happened; by default its last row or known label.

    Raises
    ------
    InputError
        When a window lacks positives or negatives of a task, with the counts of all windows.
    """
    windows = quantile_windows(log.times) if windows is None else windows
    end = log.end if end is None else utc(end, name="end of the labels")
    attribution = log.windows(windows.validation_start)
    first = request_times(log)
    at_train, at_test, at_end = (
        log.labels(cutoff, windows=attribution)
        for cutoff in (windows.validation_start, windows.test_start, end)
    )
    plan = {
        "train": (None, windows.validation_start, windows.validation_start, at_train),
        "validation": (windows.validation_start, windows.validation_end, end, at_end),
        "test": (windows.test_start, None, end, at_end),
        "final_train": (None, windows.test_start, windows.test_start, at_test),
    }
    parts = {
        name: label_window(name, first, start=start, end=stop, cutoff=cutoff, known=known)
        for name, (start, stop, cutoff, known) in plan.items()
    }
    refuse_one_class(log, [parts[name] for name in plan], attribution)
    return Splits(windows=attribution, **parts)


def request_times(log: LabelLog) -> np.ndarray:
    """The time of the first row of each row's request: datetime64[us] [N]; its own without
    requests.
    """
    if log.requests is None:
        return log.times
    first = np.empty(int(log.requests.max(initial=-1)) + 1, log.times.dtype)
    first[log.requests[::-1]] = log.times[::-1]  # times increase: the first row is written last
    return first[log.requests]


def ripe_times(log: LabelLog, cutoff: datetime) -> np.ndarray:
    """When the attribution windows of each row, as of a cut-off, were over: datetime64[us] [T, N].

    A positive label may be known before that, a negative one is not, so that counting each from its
    own time would make what is counted of young rows too positive.
    """
    windows = log.windows(cutoff)
    spans: dict[str, timedelta] = {}
    for task in given_order(log.tasks):
        waits = [windows[task.name], *([spans[task.given]] if task.given else [])]
        spans[task.name] = max(waits)
    return np.stack([log.times + np.timedelta64(spans[task.name], "us") for task in log.tasks])


def label_window(
    name: str,
    first: np.ndarray,
    *,
    start: datetime | None,
    end: datetime | None,
    cutoff: datetime,
    known: tuple[np.ndarray, np.ndarray],
) -> LabelWindow:
    """The rows with start <= first < end that have a label.

    first: of `request_times`, [N]; known: labels and mask [T, N] as of the cut-off.
    """
    inside = np.ones(len(first), bool)
    if start is not None:
        inside &= first >= instant(start)
    if end is not None:
        inside &= first < instant(end)
    labels, mask = known
    labelled = inside & mask.any(axis=0)
    rows = np.flatnonzero(labelled)
    return LabelWindow(
        name,
        start,
        end,
        cutoff,
        rows,
        labels[:, rows],
        mask[:, rows],
        int(inside.sum()) - len(rows),
    )


def refuse_one_class(
    log: LabelLog, parts: Sequence[LabelWindow], attribution: Mapping[str, timedelta]
) -> None:
    """Raise InputError when a window lacks positives or negatives of a task, with the counts of
    all.
    """
    problems = []
    for part in parts:
        for task, labels, mask in zip(log.tasks, part.labels, part.mask, strict=True):
            used, positives = int(mask.sum()), int(labels.sum())
            if 0 < positives < used:
                continue
            span = " ".join(
                f"{word} {moment:%Y-%m-%d %H:%M}"
                for word, moment in (("from", part.start), ("to", part.end))
                if moment is not None
            )
            problems.append(
                f"{part.name} ({span}): task {task.name!r} has {positives} positives among {used}"
                f" ripe rows of {len(part) + part.unlabelled} (attribution window"
                f" {duration_text(attribution[task.name])}, labels as of"
                f" {part.cutoff:%Y-%m-%d %H:%M})"
            )
    if problems:
        raise InputError(
            "a window needs both labels of every task:"
            + "".join(f"\n- {problem}" for problem in problems)
            + "\nchoose other windows, a shorter delay, or bring a longer log"
        )
