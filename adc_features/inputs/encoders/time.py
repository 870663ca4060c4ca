"""Moments: their age at the row's or the request's time, an indicator, hour and weekday. Reads: a
column of timestamps and the rows' times. Writes: two or six dense columns.

Legend: n rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError, LeakError
from adc_features.inputs.declaration import Time
from adc_features.inputs.encoded import Block, InputLayout
from adc_features.inputs.encoders.base import Fitting, State
from adc_features.inputs.encoders.category import described
from adc_features.inputs.encoders.scaling import Scale, counted_indicator
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts

_DAY = 86_400.0
_RESOLUTION = 1
"""Seconds by which a value may lie after its row: Feast's UnixTimestamp has whole seconds."""
_NEVER = np.iinfo(np.int64).min
_MINUTES, _WEEKDAYS = np.arange(1440) * (2 * np.pi / 1440), np.arange(7) * (2 * np.pi / 7)
_HOUR = np.stack([np.sin(_MINUTES), np.cos(_MINUTES)], axis=1).astype(np.float32)
_WEEKDAY = np.stack([np.sin(_WEEKDAYS), np.cos(_WEEKDAYS)], axis=1).astype(np.float32)


@dataclass(frozen=True)
class TimeEncoder:
    """log1p(age in days), standardised; with a zone also the moment's own time of day (to the
    minute) and weekday there, each as sine and cosine, 0 where absent.

    age = floor(row time) - floor(value), in whole seconds. One second or less below 0 is 0, more
    raises LeakError.
    """

    spec: ResolvedInput
    scale: Scale

    @classmethod
    def fit(cls, spec: ResolvedInput, parts: Parts, fitting: Fitting) -> Self:
        zone = cast(Time, spec.kind).zone
        try:
            ZoneInfo(zone or "UTC")
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise InputError(
                f"input {spec.name!r} has zone={zone!r}, which is no IANA time zone; expected for"
                " example 'Europe/Berlin'"
            ) from error
        ages = _log_age(_ages(spec, parts))
        return cls(spec, Scale.fit(ages, fitting.weights, of=described(spec)))

    @classmethod
    def restore(cls, spec: ResolvedInput, state: State, vocabularies: Mapping[str, Any]) -> Self:
        return cls(spec, Scale.of_facts(state.facts))

    @property
    def layout(self) -> InputLayout:
        name = self.spec.name
        dense = (name, f"{name}_absent")
        if cast(Time, self.spec.kind).zone is None:
            return InputLayout(dense, {0: 1})
        parts = ("hour_sin", "hour_cos", "weekday_sin", "weekday_cos")
        indicators = {0: 1, 2: 1, 3: 1, 4: 1, 5: 1}
        return InputLayout((*dense, *(f"{name}_{part}" for part in parts)), indicators)

    def encode(self, parts: Parts) -> Block:
        zone = cast(Time, self.spec.kind).zone
        ages = _ages(self.spec, parts)
        dense = np.zeros((len(ages), 6 if zone else 2), np.float32)
        self.scale.dense(_log_age(ages), into=dense[:, :2])
        if zone:
            local = _moments(self.spec, parts).cast(pa.timestamp("s", zone), safe=False)
            minute = pc.add(pc.multiply(pc.hour(local), 60), pc.minute(local)).fill_null(0)
            weekday = pc.day_of_week(local).fill_null(0)
            present = 1 - dense[:, 1:2]
            dense[:, 2:4] = _HOUR[minute.to_numpy(zero_copy_only=False)] * present
            dense[:, 4:6] = _WEEKDAY[weekday.to_numpy(zero_copy_only=False)] * present
        return Block(dense)

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block."""
        return counted_indicator(block.dense[:, 1])

    def counts(self, parts: Parts) -> dict[str, int]:
        return self.counted(self.encode(parts))

    def state(self) -> State:
        return State(self.scale.facts(), {})


def _log_age(ages: np.ndarray) -> np.ndarray:
    return np.log1p(ages / _DAY)


def _moments(spec: ResolvedInput, parts: Parts) -> pa.Array:
    """The source column as timestamps with a zone."""
    source = spec.columns["source"]
    column = parts[source.side].column(source.name)
    if pa.types.is_timestamp(column.type) or pa.types.is_null(column.type):
        unit = getattr(column.type, "unit", "us")
        return column.cast(pa.timestamp(unit, "UTC")) if _zone(column) != "UTC" else column
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()).cast(pa.timestamp("us", "UTC"))
    raise InputError(
        f"{described(spec)} holds values of type {column.type}, expected timestamps, or integers"
        " in microseconds since 1970 UTC; declare another kind, or convert the column"
    )


def _zone(column: pa.Array) -> str | None:
    zone: str | None = getattr(column.type, "tz", None)
    return zone


def _ages(spec: ResolvedInput, parts: Parts) -> np.ndarray:
    """Whole seconds, float64 [n], >= 0, NaN for absent. Raises LeakError."""
    side = spec.columns["source"].side
    moments = _moments(spec, parts)
    values = moments.to_numpy(zero_copy_only=False).astype("datetime64[us]").view(np.int64)
    ages = _seconds(np.asarray(parts[side].times, "datetime64[us]").view(np.int64)) - _seconds(
        values
    )
    ages = np.where(values == _NEVER, np.nan, ages.astype(np.float64))
    early = ages < 0
    if early.any():
        if len(places := np.flatnonzero(ages < -_RESOLUTION)):
            row = int(places[0])
            raise LeakError(
                f"{described(spec)} holds {moments[row].as_py().isoformat()} in row {row}, which is"
                f" {-ages[row]:.0f} s after the row's time {parts[side].times[row]}"
                f" ({len(places):,} rows in all): a row may not know the future; join the view"
                " point in time, or mend the times in its source"
            )
        ages = np.where(early, 0.0, ages)
    return ages


def _seconds(microseconds: np.ndarray) -> np.ndarray:
    return np.floor_divide(microseconds, 1_000_000)
