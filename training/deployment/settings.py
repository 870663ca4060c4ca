"""When to retrain, and what a challenger must show. Reads: a settings file (TOML). Writes:
RetrainSettings, DriftThresholds.

One file serves a deployment's commands, a table each; what it leaves out keeps its default:

    [retrain]
    max_churn = 0.1

    [drift]
    usage = 0.3
"""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from adc_features.codes.drift import DriftThresholds
from adc_features.errors import InputError

COUNTS = ("window_days", "min_rows", "every_days", "min_new_rows")
SHARES = ("max_uncoded", "max_usage_drift", "max_coverage_loss", "max_churn")
LOSSES = ("max_gauc_drop", "max_loss", "max_miscalibration")


@dataclass(frozen=True)
class RetrainSettings:
    """When to train a challenger, and what it must show.

    window_days: length of the labelled window that both are judged on. min_rows: rows that the
    window, and the new training rows, need. Reasons, any of which is enough: every_days since the
    champion's rows ended; min_new_rows since then; max_uncoded, share of the window's rows on items
    without a code; max_usage_drift, Jensen-Shannon distance of code usage at any position;
    max_gauc_drop below what the champion had when it was judged. Gates, all of which must hold:
    GAUC gain at least min_gain, with a 95 % bound (paired draws of users) above -max_loss; AUC of
    head and tail items not lower with certainty; mean predicted over observed within
    max_miscalibration of 1; coverage not lower by more than max_coverage_loss; max_churn, codes
    changed from the champion's generation; online equal to offline. Raises InputError for a value
    outside of its range.
    """

    window_days: int = 30
    min_rows: int = 300
    every_days: int = 30
    min_new_rows: int = 10_000
    max_uncoded: float = 0.2
    max_usage_drift: float = 0.3
    max_gauc_drop: float = 0.02
    min_gain: float = 0.0
    max_loss: float = 0.01
    max_miscalibration: float = 0.1
    max_coverage_loss: float = 0.05
    max_churn: float = 0.2

    def __post_init__(self) -> None:
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        for name in LOSSES:
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if not math.isfinite(self.min_gain):
            raise InputError(f"min_gain is {self.min_gain}; expected a finite number")


TABLES: dict[str, type] = {"retrain": RetrainSettings, "drift": DriftThresholds}


def retrain_settings(path: Path | None, options: Mapping[str, Any]) -> RetrainSettings:
    """The settings of `adc retrain`: its options, else the file's table `retrain`, else the
    defaults. Options that are None were not given.
    """
    settings: RetrainSettings = _settings("retrain", path, options)
    return settings


def drift_thresholds(path: Path | None, options: Mapping[str, Any]) -> DriftThresholds:
    """The limits of `adc monitor`: its options, else the file's table `drift`, else the
    defaults.
    """
    thresholds: DriftThresholds = _settings("drift", path, options)
    for name, value in asdict(thresholds).items():
        if not 0 <= value < math.inf:
            raise InputError(f"{name} is {value}; expected 0 or more")
    return thresholds


def _settings(table: str, path: Path | None, options: Mapping[str, Any]) -> Any:
    given = {name: value for name, value in options.items() if value is not None}
    found = read_settings(path)[table] if path else {}
    try:
        return TABLES[table](**found | given)
    except InputError as error:
        raise InputError(f"{path}: {error}" if path else str(error)) from error


def read_settings(path: Path) -> dict[str, dict[str, Any]]:
    """The values that a settings file gives, by table; a table that it lacks is empty.

    Raises InputError, naming table and setting, for a file that is not TOML, a table or setting
    that does not exist, and a value of another type.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as TOML ({error}); `adc retrain --show-settings` prints a file"
            " to begin with"
        ) from error
    for table, values in document.items():
        if table not in TABLES or not isinstance(values, dict):
            raise InputError(
                f"{path} has {table!r} at its top; expected the tables"
                f" {' and '.join(f'[{name}]' for name in TABLES)}"
            )
    return {
        table: {
            name: _checked(path, table, name, value)
            for name, value in document.get(table, {}).items()
        }
        for table in TABLES
    }


def _checked(path: Path, table: str, name: str, value: Any) -> Any:
    kinds = {field.name: field.type for field in fields(TABLES[table])}
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(kinds)}"
        raise InputError(f"{path}: [{table}] has no setting {name!r}; {hint}")
    whole = kinds[name] in (int, "int")
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise InputError(
            f"{path}: {name} in [{table}] is {value!r}; expected a"
            f" {'whole number' if whole else 'number'}"
        )
    return value if whole else float(value)


def settings_text(**tables: Any) -> str:
    """Settings as the text of a settings file, a table each."""
    return "\n\n".join(
        "\n".join([f"[{table}]", *(f"{name} = {value}" for name, value in asdict(held).items())])
        for table, held in tables.items()
    )
