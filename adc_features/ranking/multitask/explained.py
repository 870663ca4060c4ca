"""Why one candidate scored as it did. Reads: a trained ranker, the rows of one candidate. Writes:
Explained.

A group contributes the difference between the score and the score without the group: all else
equal, with every input of the group absent, as when the store had no value. Contributions are exact
for each group by itself; they do not add up to the score where groups act together. Weights of
codes contribute the difference to every code counting 1.

Legend: T tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.inputs.declaration import ItemHistory, Match, SemanticId, Time
from adc_features.inputs.encoded import Bag, Block, Encoded, Lookup, Slot
from adc_features.inputs.encoders.base import Encoder
from adc_features.inputs.encoders.semantic_id import SemanticIdEncoder
from adc_features.inputs.resolved import ResolvedInput, SourceColumn
from adc_features.inputs.rows import FeatureRows, Parts, Side
from adc_features.ranking.multitask.score import logit
from adc_features.ranking.multitask.trained import TrainedRanker

CODES, WEIGHTS = "codes", "weights"
_STATES = ("absent", "unknown", "present")
DEFINITION = (
    "the score, and the log odds of each task, minus the same without the group: its inputs absent,"
    " all else equal; for weights, every code counting 1"
)


@dataclass(frozen=True)
class Served:
    """What the ranker saw of one input.

    side, kind: of the input. state: "absent", "unknown" (present, and unknown to the vocabulary) or
    "present". values: column -> what was read, None for absent. codes: of a semantic ID, with the
    weights that they count by; None for other kinds.
    """

    side: str
    kind: str
    state: str
    values: Mapping[str, Any]
    codes: Sequence[int] | None = None
    weights: Sequence[float] | None = None


@dataclass(frozen=True)
class Contribution:
    """What a group of inputs adds. score: to the served score; log_odds: to each task's. inputs:
    those that were taken as absent."""

    inputs: tuple[str, ...]
    score: float
    log_odds: Mapping[str, float]


@dataclass(frozen=True)
class Explained:
    """Why a candidate scored as it did. inputs, groups: by name, in the order of the ranker."""

    score: float
    inputs: Mapping[str, Served]
    groups: Mapping[str, Contribution]
    definition: str = DEFINITION

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; codes and weights of semantic IDs alone."""
        facts = asdict(self)
        for one in facts["inputs"].values():
            if one["codes"] is None:
                del one["codes"], one["weights"]
        return facts


def explained(trained: TrainedRanker, parts: Parts, row: int) -> Explained:
    """What the ranker saw of a candidate, and what each group of inputs contributed.

    Parameters
    ----------
    trained : TrainedRanker
        The model of its first seed, which serves.
    parts : Parts
        The rows of a request, or joined rows.
    row : int
        Of the candidate.
    """
    one = candidate_parts(parts, row)
    encoded = trained.encoder.encode(one)
    score, log_odds = _scored(trained, encoded)
    tasks = [task.name for task in trained.ranker.tasks]
    groups = {}
    for group, blocks in _without(trained, one, encoded).items():
        without, other = _scored(trained, replace(encoded, blocks={**encoded.blocks, **blocks}))
        change = dict(zip(tasks, (log_odds - other).tolist(), strict=True))
        groups[group] = Contribution(tuple(blocks), score - without, change)
    counts = trained.encoder.counts(one, encoded)
    inputs = {
        name: _served(encoder, one, encoded.blocks[name], counts[name])
        for name, encoder in trained.encoder.encoders.items()
        if not encoder.spec.kind.train_only
    }
    return Explained(score, inputs, groups)


def candidate_parts(parts: Parts, row: int) -> Parts:
    """The rows of one candidate: its own, and those that stand for all."""
    sides = {
        side: rows
        if len(rows) == 1
        else FeatureRows(rows.table.slice(row, 1), rows.times[row : row + 1])
        for side, rows in parts.sides.items()
    }
    return replace(parts, sides=sides, rows=1)


def _scored(trained: TrainedRanker, encoded: Encoded) -> tuple[float, np.ndarray]:
    """The served score, and the log odds of each task, float64 [T]."""
    score, probability = trained.served(encoded)
    return float(score[0]), logit(probability[:, 0])


def _without(trained: TrainedRanker, one: Parts, encoded: Encoded) -> dict[str, dict[str, Block]]:
    """Group -> the blocks of its inputs as if they were absent."""
    groups: dict[str, dict[str, Block]] = {}
    weights: dict[str, Block] = {}
    for name, encoder in trained.encoder.encoders.items():
        spec = encoder.spec
        if spec.kind.train_only:
            continue
        coded = isinstance(spec.kind, SemanticId)
        group = groups.setdefault(CODES if coded else spec.side, {})
        group[name] = encoder.encode(absent_parts(spec, one))
        if isinstance(encoder, SemanticIdEncoder) and f"{name}_weight_0" in encoder.layout.dense:
            weights[name] = _weighing_one(encoded.blocks[name], encoder.length)
    return {**groups, **({WEIGHTS: weights} if weights else {})}


def absent_parts(spec: ResolvedInput, parts: Parts) -> Parts:
    """Parts in which what an input reads is null. A history and a match lose the user's list, not
    the candidate, which others read too."""
    columns: dict[Side, dict[str, pa.Array]] = {}
    for role, column in spec.columns.items():
        values = parts[column.side].column(column.name)
        if _is_lost(spec, role):
            values = pa.nulls(len(values), values.type)
        columns.setdefault(column.side, {})[column.name] = values
    sides = {s: FeatureRows(pa.table(c), parts[s].times) for s, c in columns.items()}
    return replace(parts, sides={**parts.sides, **sides})


def _is_lost(spec: ResolvedInput, role: str) -> bool:
    if isinstance(spec.kind, ItemHistory):
        return role in ("source", "times", "labels")
    if isinstance(spec.kind, Match):
        return role in ("source", "values")
    return role != "count"  # an item without codes is as popular as with them


def _weighing_one(block: Block, length: int) -> Block:
    """The same codes at so many positions, each of which counts 1; the reliability stays, and so do
    the shares of two codes, which belong to them.
    """
    codes, others = block.slots[:length], block.slots[length:]
    known = np.stack([_first(slot).rows > 0 for slot in codes], axis=1).astype(np.float32)
    dense = block.dense.copy()
    dense[:, :length] = known
    weighed = (
        Lookup(s.rows, known[:, n]) if isinstance(s, Lookup) else s for n, s in enumerate(codes)
    )
    equal = (
        replace(s, weights=np.ones_like(s.weights)) if isinstance(s, Bag) else s for s in others
    )
    return Block(dense, (*weighed, *equal))


def _first(slot: Slot) -> Lookup:
    """The code of a position, or the first of its two."""
    if isinstance(slot, Lookup):
        return slot
    assert isinstance(slot, Bag), "a position is a lookup, or a bag of two codes"
    return Lookup(slot.rows[::2], slot.weights[::2])


def _served(encoder: Encoder, one: Parts, block: Block, counts: Mapping[str, int]) -> Served:
    spec = encoder.spec
    values = {
        column.name: _value(one, column, times=role == "times" or isinstance(spec.kind, Time))
        for role, column in spec.columns.items()
    }
    kind = spec.kind_name
    state = next((name for name in _STATES if counts.get(name)), "present")
    if not isinstance(encoder, SemanticIdEncoder):
        return Served(spec.side, kind, state, values)
    slots = [_first(slot) for slot in block.slots[: encoder.length]]
    return Served(
        spec.side,
        kind,
        state,
        values,
        [int(slot.rows[0]) - 1 for slot in slots],
        [1.0 if slot.weights is None else float(slot.weights[0]) for slot in slots],
    )


def _value(one: Parts, column: SourceColumn, *, times: bool) -> Any:
    """As a JSON value: times as text, bytes as hexadecimal digits."""
    values = one[column.side].column(column.name)
    return _plain((_moments(values) if times else values)[0].as_py())


def _moments(values: pa.Array) -> pa.Array:
    """Timestamps, or lists of them, where integers are microseconds since 1970 UTC."""
    utc, held = pa.timestamp("us", "UTC"), getattr(values.type, "value_type", values.type)
    if not pa.types.is_integer(held):
        return values
    return values.cast(utc if held == values.type else pa.list_(utc))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
