"""Does a frame hold features from the future? Reads: any Parquet frame, row group by row group.
Writes: an Audit.

Works on our frames, whose columns say when each view's row became valid, and on others, whose time
columns are named. Memory: the time columns of one row group, however long the frame.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adc_features.damage import READ_ERRORS
from adc_features.errors import ArtifactError, InputError, LeakError
from adc_features.event_times import microseconds
from adc_features.parquet_files import reading

SUFFIXES = ("_event_time", "_last_time")
_SECOND, _HOUR, _DAY = 1_000_000, 3_600_000_000, 86_400_000_000
AGES = {
    "future": None,
    "0": 0,
    "1s": _SECOND,
    "1min": 60 * _SECOND,
    "1h": _HOUR,
    "1d": _DAY,
    "7d": 7 * _DAY,
    "30d": 30 * _DAY,
    "90d": 90 * _DAY,
    "365d": 365 * _DAY,
    "older": None,
}
"""Upper ends, included, of the groups that ages (row time - feature time) are counted in:
microseconds.
"""
_EDGES = np.array([-1, *(end for end in AGES.values() if end is not None)])


@dataclass
class ViewAudit:
    """One view. ages: how many rows by age group, AGES; none: rows without a feature row; at_label:
    rows whose feature became valid at most `close` before the label's own time; future: rows whose
    feature is newer than the row; first_future: the first of them.
    """

    column: str
    rows: int = 0
    none: int = 0
    future: int = 0
    at_label: int = 0
    first_future: int | None = None
    youngest_s: float | None = None
    oldest_s: float | None = None
    mean_s: float | None = None
    ages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(AGES, 0))

    def add(
        self,
        row: np.ndarray,
        feature: np.ndarray,
        known: np.ndarray,
        label: np.ndarray,
        *,
        close: int,
    ) -> None:
        age, before = (row - feature)[known], self.rows - self.none
        late = np.flatnonzero(known & (feature > row))
        if len(late) and self.first_future is None:
            self.first_future = self.rows + int(late[0])
        apart = (label - feature)[known]
        self.rows, self.none, self.future = (
            self.rows + len(row),
            self.none + len(row) - len(age),
            self.future + len(late),
        )
        self.at_label += int(((apart >= 0) & (apart <= close)).sum())
        for name, count in zip(
            AGES,
            np.bincount(np.searchsorted(_EDGES, age), minlength=len(AGES)).tolist(),
            strict=True,
        ):
            self.ages[name] += count
        if len(age):
            low, high, mean = (float(v) / _SECOND for v in (age.min(), age.max(), age.mean()))
            self.youngest_s = low if self.youngest_s is None else min(self.youngest_s, low)
            self.oldest_s = high if self.oldest_s is None else max(self.oldest_s, high)
            self.mean_s = (
                mean
                if self.mean_s is None
                else (self.mean_s * before + mean * len(age)) / (before + len(age))
            )


@dataclass(frozen=True)
class Audit:
    """What was found, by view. rows: of the frame; row_time, label_time: the columns compared with;
    close_s: what counts as at the label.
    """

    rows: int
    row_time: str
    label_time: str
    close_s: float
    views: Mapping[str, ViewAudit]

    def require_clean(self) -> None:
        """Raise LeakError when any row reads a feature from its future."""
        leaks = [
            f"{v.future} of {v.rows} rows read {name} from the future (column {v.column}, first:"
            f" row {v.first_future}, up to {-v.youngest_s or 0.0:.6g} s after its {self.row_time})"
            for name, v in self.views.items()
            if v.future and v.youngest_s is not None
        ]
        if leaks:
            raise LeakError(
                "; ".join(leaks)
                + "; join as of the row's time, and give features the time at which they could"
                " first be known"
            )


def feature_time_columns(names: Sequence[str]) -> dict[str, str]:
    """View -> time column of a frame of ours: `<view>_event_time`, when the row read became valid;
    `*_last_time` and `sid_as_of`, the newest event inside.
    """
    found = {name.removesuffix(SUFFIXES[0]): name for name in names if name.endswith(SUFFIXES[0])}
    return found | {
        name: name for name in names if name.endswith(SUFFIXES[1]) or name == "sid_as_of"
    }


def audit(
    path: Path,
    *,
    row_time: str = "event_timestamp",
    feature_times: Mapping[str, str] | None = None,
    label_time: str | None = None,
    close: timedelta = timedelta(0),
) -> Audit:
    """Audit a Parquet frame.

    feature_times: view -> column with the time its feature became valid; None: those of
    `feature_time_columns`. label_time: when the label happened, default the row's time. Times:
    timestamps (naive ones mean UTC), dates, or int64 microseconds since 1970 where negative means
    never. close: a feature that became valid at most this long before the label is counted in
    `at_label`. Raises ArtifactError when the file is not Parquet, InputError for missing columns,
    other types and rows without a time.
    """
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise ArtifactError(f"there is no file {path}; give a Parquet frame") from error
    except READ_ERRORS as error:
        raise ArtifactError(
            f"{path} is not readable as Parquet ({error}); give a complete Parquet file"
        ) from error
    with file:
        names = file.schema_arrow.names
        views = feature_time_columns(names) if feature_times is None else dict(feature_times)
        if not views:
            raise InputError(
                f"{path} has no column that ends in {' or '.join(SUFFIXES)}, nor sid_as_of; name"
                " feature times with --feature-time VIEW=COLUMN"
            )
        label = label_time or row_time
        if missing := sorted({row_time, label, *views.values()} - set(names)):
            raise InputError(f"{path} has no column {', '.join(missing)}; it has {names}")
        wanted = list(dict.fromkeys([row_time, label, *views.values()]))
        groups = _row_groups(file, path, wanted)
        return _audited(groups, row_time=row_time, views=views, label_time=label, close=close)


def _row_groups(file: pq.ParquetFile, path: Path, columns: list[str]) -> Iterator[pa.Table]:
    for group in range(file.num_row_groups):
        with reading(path):
            table = file.read_row_group(group, columns=columns)
        yield table


def _audited(
    groups: Iterable[pa.Table],
    *,
    row_time: str,
    views: Mapping[str, str],
    label_time: str,
    close: timedelta,
) -> Audit:
    audits = {view: ViewAudit(column) for view, column in views.items()}
    rows = 0
    for group in groups:
        row, label = (microseconds(group[name], name=name) for name in (row_time, label_time))
        rows += len(row)
        for view in audits.values():
            feature, known = _moments(group[view.column], view.column)
            view.add(row, feature, known, label, close=close // timedelta(microseconds=1))
    return Audit(rows, row_time, label_time, close.total_seconds(), audits)


def _moments(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """int64 [N] microseconds and bool [N], whether there is a time at all."""
    known = column.is_valid().to_numpy()
    ticks = np.zeros(len(column), np.int64)
    there: Any = column.drop_null()
    if pa.types.is_integer(column.type):
        ticks[known] = there.cast(pa.int64()).to_numpy()
        return ticks, known & (ticks >= 0)
    ticks[known] = microseconds(there, name=name)
    return ticks, known
