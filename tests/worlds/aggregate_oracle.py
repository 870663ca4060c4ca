"""Every aggregate in plain Python with fractions, an event at a time: what both engines must equal.

Reads: views, raw rows. Writes: the features of a key at a time, exact until the last rounding.
"""

from fractions import Fraction
from typing import Any

import numpy as np

from adc_features.aggregates.declaration import Aggregate, AggregateView, Residual, microseconds_of


class Oracle:
    """Rows are mappings with `time` (int microseconds), `event_id` (16 bytes) and raw columns."""

    def __init__(self, view: AggregateView, rows: list[dict[str, Any]]) -> None:
        self.view = view
        self.rows = sorted(rows, key=lambda r: (r["time"], r["event_id"]))

    def every_key(self) -> list[tuple]:
        found = {tuple(r[c] for c in self.view.key) for r in self.rows}
        known = [c for c in self.view.key if c in self.view.stream.attributes]
        places = [self.view.key.index(c) for c in known]
        return sorted(k for k in found if all(k[p] for p in places))

    def of_key(self, columns: tuple[str, ...], key: tuple) -> list[dict]:
        return [r for r in self.rows if tuple(r[c] for c in columns) == key]

    def whole(self, of: Any, row: dict) -> Fraction | None:
        """A value as the fraction on its grid; null is None."""
        if isinstance(of, Residual):
            return self.residual(of, row)
        value, bits = row[of], self.view.stream.values[of].bits
        return None if value is None else Fraction(round(Fraction(value) * 2**bits), 2**bits)

    def cut(self, time: int, *, row: bool) -> int:
        stream = self.view.stream
        if self.view.known == "sealed":
            tick = microseconds_of(stream.tick)
            return (time - microseconds_of(stream.lateness)) // tick * tick
        return time + 1 if row else time - microseconds_of(stream.resolution) + 1

    def prior(self, of: str, cut: int, initial: float | None) -> float:
        seen = [self.whole(of, r) for r in self.rows if r["time"] < cut]
        if initial is None and not seen:
            seen = [self.whole(of, self.rows[0])]
        seen = [v for v in seen if v is not None]
        return float(sum(seen)) / len(seen) if seen else float(initial or 0.0)

    def residual(self, of: Residual, row: dict) -> Fraction | None:
        value = self.whole(of.of, row)
        if value is None:
            return None
        cut = self.cut(row["time"], row=False)
        known = [c for c in of.against if c in self.view.stream.attributes]
        other = self.of_key(of.against, tuple(row[c] for c in of.against))
        if any(not row[c] for c in known):
            other = []
        seen = [self.whole(of.of, r) for r in other if r["time"] < cut]
        seen = [v for v in seen if v is not None]
        prior = self.prior(of.of, cut, of.initial)
        expected = (float(sum(seen)) + of.smoothing * prior) / (len(seen) + of.smoothing)
        scaled = np.rint((float(value) - expected) * 2.0**of.bits)
        return Fraction(int(scaled), 2**of.bits)

    def features(self, key: tuple, time: int) -> dict[str, Any]:
        own = [r for r in self.of_key(self.view.key, key) if r["time"] <= time]
        return {n: self.feature(a, own, time) for n, a in self.view.features.items()}

    def feature(self, one: Aggregate, own: list[dict], time: int) -> Any:
        rows, stream = own, self.view.stream
        if one.by is not None:
            group = tuple(own[-1][c] for c in one.by)
            unknown = any(not own[-1][c] for c in one.by if c in stream.attributes)
            cut = self.cut(time, row=True)
            rows = [] if unknown else [r for r in self.of_key(one.by, group) if r["time"] < cut]
        if one.window is not None:
            hop, window = microseconds_of(one.hop), microseconds_of(one.window)
            oldest = (time - window) // hop
            rows = [r for r in rows if -(-r["time"] // hop) > oldest]
        if one.kind in ("last_time", "first_time"):
            return own[-1 if one.kind == "last_time" else 0]["time"]
        if one.kind == "count":
            return sum(one.of is None or r[one.of] is not None for r in rows)
        if one.kind in ("last_distinct", "distinct"):
            newest = {r[one.of]: place for place, r in enumerate(rows) if r[one.of] != ""}
            values = sorted(newest, key=newest.get)[-one.n :]
            return len(values) if one.kind == "distinct" else values
        if one.kind in ("last", "newest"):
            if one.of not in stream.values and not isinstance(one.of, Residual):
                values = [r[one.of] for r in rows]
            else:
                values = [self.shown(one.of, self.whole(one.of, r)) for r in rows]
                values = [v for v in values if v is not None]
            return values[-one.n :] if one.kind == "last" else (values[-1] if values else None)
        values = [v for v in (self.whole(one.of, r) for r in rows) if v is not None]
        if one.kind == "total":
            return self.shown(one.of, sum(values, Fraction(0)))
        if one.kind in ("minimum", "maximum"):
            pick = min if one.kind == "minimum" else max
            return self.shown(one.of, pick(values, default=None))
        total = float(sum(values))
        if one.kind == "mean":
            return float(np.float32(total / len(values))) if values else None
        prior = 0.0
        if one.kind == "smoothed_mean":
            prior = self.prior(one.of, self.cut(time, row=True), one.initial)
        return float(np.float32((total + one.smoothing * prior) / (len(values) + one.smoothing)))

    def shown(self, of: Any, value: Fraction | None) -> Any:
        if value is None:
            return None
        if isinstance(of, str) and not self.view.stream.values[of].bits:
            return int(value)
        return float(np.float32(float(value)))
