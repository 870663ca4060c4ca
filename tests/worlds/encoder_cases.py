"""Small declared inputs, one case for each way an encoder works. A new kind passes the encoder
contract by adding its cases to CASES.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.codes.sids import SidTable, SidTimeline
from adc_features.inputs.declaration import (
    Input,
    category,
    category_sequence,
    category_set,
    cross,
    flag,
    item_history,
    match,
    number,
    remainder,
    semantic_id,
    time,
    vector,
)
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.resolved import ResolvedInput, SourceColumn
from adc_features.inputs.rows import FeatureRows, Parts, Side

ROWS = 40
START = np.datetime64("2026-03-01T12:00:00", "us")
TIMES = START + np.arange(ROWS) * np.timedelta64(3_600_000_000, "us")


def spec(
    name: str,
    kind: Input,
    dtype: str = "Float64",
    *,
    side: Side = "item",
    vector_length: int = 0,
    **roles: tuple[str, str, Side],
) -> ResolvedInput:
    """A resolved input that reads the column of its own name, or role=(column, type, side)."""
    if roles:
        columns = {role: SourceColumn(*each) for role, each in roles.items()}
    else:
        columns = {"source": SourceColumn(name, dtype, side, vector_length)}
    return ResolvedInput(name, kind, columns, side, "declared")


def rows_of(table: pa.Table | dict[str, Any], times: np.ndarray | None = None) -> Parts:
    """Joined rows; by default an hour apart."""
    table = table if isinstance(table, pa.Table) else pa.table(table)
    return Parts.joined(table, TIMES[: len(table)] if times is None else times)


@dataclass(frozen=True)
class Case:
    """inputs: fitted together; the last is looked at. columns: ROWS values each; in row 0 its
    input is absent, in row 1 present. request_rows: sides that have one row online.
    """

    name: str
    inputs: tuple[ResolvedInput, ...]
    columns: dict[str, pa.Array]
    timeline: Any = None

    @property
    def spec(self) -> ResolvedInput:
        return self.inputs[-1]

    def parts(self, rows: np.ndarray | None = None) -> Parts:
        """The joined rows, or some of them in this order."""
        table = pa.table(self.columns)
        if rows is None:
            return Parts.joined(table, TIMES, timeline=self.timeline)
        taken = table.take(pa.array(rows))
        return Parts.joined(taken, TIMES[rows], timeline=self.timeline)

    def request(self, row: int, candidates: np.ndarray) -> tuple[Parts, Parts]:
        """One request as it comes online, with user, request and global sides of one row; and the
        same rows as they would be joined: `row` gives the user side's values, `candidates` the
        others'."""
        table = pa.table(self.columns)
        once, many = table.slice(row, 1), table.take(pa.array(candidates))
        sides: dict[str, Side] = {c.name: c.side for s in self.inputs for c in s.columns.values()}
        joined = pa.table(
            {
                name: (many if sides.get(name) in ("item", "pair") else once.take([0] * len(many)))[
                    name
                ]
                for name in self.columns
            }
        )
        now, count = TIMES[-1:], len(candidates)
        parts = {
            side: FeatureRows(many, np.repeat(now, count))
            if side in ("item", "pair")
            else FeatureRows(once, now)
            for side in ("user", "item", "pair", "request", "global")
        }
        return (
            Parts(parts, count, self.timeline),
            Parts.joined(joined, np.repeat(now, count), timeline=self.timeline),
        )

    def fitted(self) -> InputEncoder:
        """All its inputs, fitted on all its rows."""
        return InputEncoder.fit(self.inputs, self.parts())


def _some(values: list[Any], type_: pa.DataType) -> pa.Array:
    """ROWS values: null first, then these over and over."""
    return pa.array([None, *(values[i % len(values)] for i in range(ROWS - 1))], type_)


_NUMBERS = _some([3.5, 0.0, -2.0, 1e6, 12.0, None, 7.0], pa.float64())
_WORDS = _some(["red", "blue", "red", "green", "rare", None], pa.string())
_STAMP = pa.timestamp("us", "UTC")
_MOMENTS = pa.array([None, *((TIMES[1:] - np.timedelta64(90_000_000_000, "us")).tolist())], _STAMP)
_VECTORS = _some([[1.0, 2.0], [0.0, 0.0], [-3.0, 4.0]], pa.list_(pa.float32()))
_FIXED = _VECTORS.cast(pa.list_(pa.float32(), 2))
_TAGS = _some([["red"], ["red", "blue", "red", None], [], ["new", "blue"]], pa.list_(pa.string()))
_NUMBERED = _some([[1, 2], [3], [], [2, 2, 7, 1]], pa.list_(pa.int64()))


def _codes_through_time() -> SidTimeline:
    """Two snapshots of three items; "c" has no second code."""

    def table(shift: int) -> SidTable:
        sid = np.array([[0, shift], [1, 2], [2, -1]], np.int32)
        weight = np.array([[1, 0.5], [1, 2], [1, 0]], np.float32)
        return SidTable(
            item_ids=np.array(["a", "b", "c"]),
            sid=sid,
            sid_weight=weight,
            reliability=np.ones(3, np.float32),
            alignment=np.ones(3, np.float32),
            is_cold=np.zeros(3, bool),
            collision_count=np.ones(3, np.int32),
            found=np.ones(3, bool),
            generation="g1",
            codebook_size=4,
            as_of=datetime(2026, 2, 1, tzinfo=UTC),
        )

    moments = [datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)]
    return SidTimeline([table(1), table(3)], moments)


def _history_columns() -> dict[str, pa.Array]:
    """Histories of a user, and candidates with their codes."""
    items = [["a", "b", "a"], [], ["c", "new"], ["b"], ["a", None]]
    times = [
        None if i is None else [TIMES[0] - np.timedelta64(9 - n, "D") for n in range(len(i))]
        for i in (None, *(items[n % 5] for n in range(ROWS - 1)))
    ]
    micros = [None if t is None else [int(x.astype(np.int64)) for x in t] for t in times]
    labels = [None if t is None else [n % 2 for n in range(len(t))] for t in times]
    return {
        "items": _some(items, pa.list_(pa.string())),
        "times": pa.array(micros, pa.list_(pa.int64())).cast(pa.list_(_STAMP)),
        "labels": pa.array(labels, pa.list_(pa.int64())),
        "seen": _some([30, 7, 2, 12], pa.int64()),
        "share": _some([0.5, 0.25, 0.75], pa.float32()),
        "sku": _some(["a", "b", "c", "new", None], pa.string()),
        "brand": _some(["a", "b"], pa.string()),
        "sid": _some([[0, 3], [1, 2], [2, -1]], pa.list_(pa.int32())),
        "weight": _some([[1.0, 0.5], [1.0, 2.0], [1.0, 0.0]], pa.list_(pa.float32())),
        "reliability": _some([0.5, 0.25, 0.0], pa.float32()),
    }


_SID = spec(
    "sid",
    semantic_id(codebook_size=4),
    codes=("sid", "Array(Int32)", "item"),
    weights=("weight", "Array(Float32)", "item"),
    reliability=("reliability", "Float32", "item"),
)
_SKU = spec("sku", category(min_count=1), "String")
_GATED = spec(
    "sid",
    semantic_id(codebook_size=4, weights=False, id_input="sku", id_count="seen"),
    codes=("sid", "Array(Int32)", "item"),
    count=("seen", "Int64", "item"),
)


def _history(kind: Input, **candidate: tuple[str, str, Side]) -> ResolvedInput:
    return spec(
        "h",
        kind,
        side="pair",
        source=("items", "Array(String)", "user"),
        times=("times", "Array(UnixTimestamp)", "user"),
        labels=("labels", "Array(Int64)", "user"),
        **candidate,
    )


_PAIR = cross(of=("u", "i"), min_count=2)
CASES = [
    Case("number", (spec("x", number()),), {"x": _NUMBERS}),
    Case("number_raw", (spec("x", number(standardise=False)),), {"x": _NUMBERS}),
    Case(
        "number_log_bins",
        (spec("x", number(log=True, bins=4, clip=(-1.0, 1e5)), "Float32", side="user"),),
        {"x": _NUMBERS.cast(pa.float32())},
    ),
    Case(
        "number_int",
        (spec("x", number(bins=3), "Int64"),),
        {"x": _some([5, 2, 9, 2**53 + 1], pa.int64())},
    ),
    Case("category", (spec("c", category(min_count=2), "String"),), {"c": _WORDS}),
    Case(
        "category_of_the_user",
        (spec("c", category(min_count=8, buckets=5), "String", side="user"),),
        {"c": _WORDS},
    ),
    Case(
        "category_int",
        (spec("c", category(min_count=1), "Int64"),),
        {"c": _some([7, -1, 2**62], pa.int64())},
    ),
    Case("flag", (spec("f", flag(), "Bool"),), {"f": _some([True, False], pa.bool_())}),
    Case(
        "flag_int",
        (spec("f", flag(), "Int32", side="user"),),
        {"f": _some([1, 0, None], pa.int32())},
    ),
    Case("time", (spec("t", time(), "UnixTimestamp"),), {"t": _MOMENTS}),
    Case("time_int", (spec("t", time(), "Int64"),), {"t": _MOMENTS.cast(pa.int64())}),
    Case(
        "time_zone",
        (spec("t", time(zone="America/New_York"), "UnixTimestamp", side="user"),),
        {"t": _MOMENTS.cast(pa.timestamp("s", "UTC"), safe=False)},
    ),
    Case("vector", (spec("v", vector(), "Array(Float32)"),), {"v": _VECTORS}),
    Case(
        "vector_normalised",
        (spec("v", vector(normalise=True), "Array(Float32)", side="user", vector_length=2),),
        {"v": _FIXED},
    ),
    Case(
        "cross",
        (
            spec(
                "p",
                _PAIR,
                side="pair",
                left=("u", "String", "user"),
                right=("i", "Int64", "item"),
            ),
        ),
        {"u": _WORDS, "i": _some([1, 2], pa.int64())},
    ),
    Case(
        "set",
        (spec("s", category_set(min_count=3), "Array(String)", side="user"),),
        {"s": _TAGS},
    ),
    Case("set_int", (spec("s", category_set(min_count=1), "Set(Int64)"),), {"s": _NUMBERED}),
    Case(
        "sequence",
        (spec("s", category_sequence(min_count=3, buckets=2, last=2), "Array(String)"),),
        {"s": _TAGS},
    ),
    Case(
        "sequence_newest_first",
        (
            spec(
                "s",
                category_sequence(min_count=1, last=3, order="newest_first"),
                "Array(Int64)",
                side="user",
            ),
        ),
        {"s": _NUMBERED},
    ),
    Case("semantic_id", (_SID,), _history_columns()),
    Case("semantic_id_gated", (_SKU, _GATED), _history_columns()),
    Case(
        "semantic_id_combined",
        (replace(_SID, kind=semantic_id(codebook_size=4, combinations=3)),),
        _history_columns(),
    ),
    Case(
        "history_of_ids",
        (_SKU, _history(item_history(last=2), candidate=("sku", "String", "item"))),
        _history_columns(),
    ),
    Case(
        "history_without_match",
        (_SKU, _history(item_history(match=False), candidate=("sku", "String", "item"))),
        _history_columns(),
    ),
    Case(
        "history_of_codes",
        (
            _SID,
            _history(
                item_history(codes=True),
                codes=("sid", "Array(Int32)", "item"),
                weights=("weight", "Array(Float32)", "item"),
            ),
        ),
        _history_columns(),
        _codes_through_time(),
    ),
    Case(
        "history_of_similar_codes",
        (
            _SID,
            _history(
                item_history(codes=True, embedded=False, similarity=True, half_life=2.0),
                codes=("sid", "Array(Int32)", "item"),
                weights=("weight", "Array(Float32)", "item"),
            ),
        ),
        _history_columns(),
        _codes_through_time(),
    ),
    Case(
        "history_beside_a_stored_mean",
        (
            _SKU,
            _history(
                item_history(mean="share"),
                candidate=("sku", "String", "item"),
                mean=("share", "Float32", "user"),
            ),
        ),
        _history_columns(),
    ),
    Case(
        "history_of_numbers_alone",
        (
            _SKU,
            _history(item_history(embedded=False), candidate=("sku", "String", "item")),
        ),
        _history_columns(),
    ),
    Case(
        "remainder_of_a_count",
        (
            spec(
                "r",
                remainder(days=5, log=True),
                side="user",
                source=("seen", "Int64", "user"),
                times=("times", "Array(UnixTimestamp)", "user"),
            ),
        ),
        _history_columns(),
    ),
    Case(
        "remainder_of_a_mean",
        (
            spec(
                "r",
                remainder(values="labels", count="seen", days=8.5, smoothing=2.0),
                side="user",
                source=("share", "Float32", "user"),
                times=("times", "Array(UnixTimestamp)", "user"),
                values=("labels", "Array(Int64)", "user"),
                count=("seen", "Int64", "user"),
            ),
        ),
        _history_columns(),
    ),
    Case(
        "match_standardised",
        (
            spec(
                "m",
                match(candidate="brand", standardise=True),
                side="pair",
                source=("items", "Array(String)", "user"),
                candidate=("brand", "String", "item"),
            ),
        ),
        _history_columns(),
    ),
    Case(
        "match",
        (
            spec(
                "m",
                match(candidate="brand", values="labels", centred=True),
                side="pair",
                source=("items", "Array(String)", "user"),
                values=("labels", "Array(Int64)", "user"),
                candidate=("brand", "String", "item"),
            ),
        ),
        _history_columns(),
    ),
]
"""Every kind passes the contract on these."""
