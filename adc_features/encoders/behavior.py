"""Item vectors learned from interactions, as of several times. Reads: interactions, item ids.
Writes: BehaviorVectors.

One SASRec is trained up to the first cut-off and continued, in order of time, to each later one.
What it learned by a cut-off is rotated onto the vectors of the one before, and each item's vector
moves towards it by its share of new events: all cut-offs live in one space, and an item that
nothing happened to keeps its vector to the bit. Each cut-off sees only events with time < as_of; an
item that was not seen before it is absent.

Legend: N items of the catalogue, K items known at a cut-off, E events, D dims.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from adc_features.clock import instant, utc
from adc_features.codes.embeddings import check_unique_ids, id_array
from adc_features.codes.sids import find_rows
from adc_features.encoders.behavior_state import (
    BehaviorState,
    BehaviorVectors,
    read_state,
    write_state,
)
from adc_features.encoders.sasrec import Loss, SASRec, Sequences, next_item_loss, packed_batches
from adc_features.errors import InputError

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BehaviorSettings:
    """How the item table is trained.

    dim: D. length: T, places of a packed row, the longest history. batch: positions a step. epochs:
    passes over the events up to the first cut-off; continued_epochs: passes over all events before
    each later one. learning_rate: its peak; it rises over the first tenth of the steps and falls to
    0, at every cut-off. init_std: of new rows of the item table. table_decay: AdamW's decoupled
    decay, on the item table only; without it the norms of rare items grow with every cut-off.
    new_event_weight: how much an event since the last cut-off counts beside one before it, when an
    item's vector moves on (`carried`).
    """

    loss: Loss
    dim: int = 64
    blocks: int = 2
    length: int = 64
    batch: int = 512
    dropout: float = 0.3
    epochs: int = 10
    continued_epochs: int = 3
    learning_rate: float = 5e-3
    init_std: float = 0.02
    table_decay: float = 0.3
    new_event_weight: float = 2.0

    def __post_init__(self) -> None:
        sizes = {
            name: getattr(self, name)
            for name in ("dim", "blocks", "length", "epochs", "continued_epochs")
        }
        if min(sizes.values()) < 1 or self.batch < self.length:
            raise InputError(
                f"behaviour settings are {sizes} with batch {self.batch}; expected all at least 1"
                " and a batch of at least one row of `length`"
            )
        if not self.new_event_weight > 0:
            raise InputError(
                f"new_event_weight is {self.new_event_weight}; expected above 0: at 0 no vector"
                " would ever move"
            )


def full_softmax() -> BehaviorSettings:
    """The most accurate recipe we measured. Item popularity is a fixed term of the logits, so that
    the vectors hold what is left.
    """
    return BehaviorSettings("full_softmax")


def norm_rising() -> BehaviorSettings:
    """Norms that grow with popularity, as ADC-SID's Eq. 15-17 assume: tiny initial rows, negatives
    as frequent as positives, strong decay, an early stop (the rank correlation of norm and count
    falls with every further epoch). Less accurate than `full_softmax`.
    """
    return BehaviorSettings(
        "in_batch",
        epochs=16,
        continued_epochs=2,
        learning_rate=2e-3,
        init_std=0.002,
        table_decay=1.0,
    )


RECIPES: dict[str, Callable[[], BehaviorSettings]] = {
    "full_softmax": full_softmax,
    "norm_rising": norm_rising,
}


@dataclass(frozen=True)
class _Events:
    """Events ordered by user, then time, then input row: `users`, `items` (catalogue rows) int64
    [E], `times` datetime64[us] [E].
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray

    def select(self, mask: np.ndarray) -> "_Events":
        return _Events(self.users[mask], self.items[mask], self.times[mask])

    def before(self, as_of: datetime) -> "_Events":
        return self.select(self.times < instant(as_of))


class _Start(NamedTuple):
    """Parameters by name, `table` [K, D] among them, and the rows of it that mean something: bool
    [K].
    """

    tensors: dict[str, Tensor]
    known: Tensor


def behavior_series(
    interactions: pa.Table,
    item_ids: np.ndarray,
    *,
    cutoffs: Sequence[datetime],
    settings: BehaviorSettings,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> list[BehaviorVectors]:
    """SASRec's item table (Kang & McAuley 2018) as of each cut-off, in one space.

    interactions: `user_id`, `item_id`, `time` (aware timestamp), in any order; events of one user
    at one time keep their row order. item_ids: [N], unique, every item of the interactions among
    them. cutoffs: aware, ascending; each is exclusive. checkpoint: a directory where each cut-off's
    state is kept; a later call with the same past, settings and seed starts from it and returns
    what an uninterrupted call would have. Raises ArtifactError when a checkpoint is not what was
    written; InputError, before any training, on empty or naive input, null or unknown ids, cut-offs
    out of order, or when the events before the first cut-off hold fewer than two users, two items,
    or no user with two events.
    """
    cutoffs = [utc(c, name="cut-off") for c in cutoffs]
    if not cutoffs or any(a >= b for a, b in pairwise(cutoffs)):
        raise InputError(
            f"cut-offs are {[c.isoformat() for c in cutoffs]}; expected at least one, ascending,"
            " none twice"
        )
    events = _events(interactions, item_ids)
    _check_trainable(events.before(cutoffs[0]), cutoffs[0], events)
    state: BehaviorState | None = None
    series: list[BehaviorVectors] = []
    history = hashlib.sha256(repr((asdict(settings), seed)).encode())
    for number, as_of in enumerate(cutoffs):
        past = events.before(as_of)
        for part in (item_ids[past.items], np.flatnonzero(np.diff(past.users, prepend=-1))):
            history.update(np.ascontiguousarray(part).tobytes())
        kept = (
            None
            if checkpoint is None
            else Path(checkpoint) / f"{as_of:%Y%m%dT%H%M%S%f}-{history.hexdigest()[:16]}.npz"
        )
        if kept is not None and kept.exists():
            state = read_state(kept)
        else:
            state = _advanced(
                state,
                past,
                item_ids,
                as_of=as_of,
                settings=settings,
                seed=seed,
                label=f"behaviour {number + 1}/{len(cutoffs)}",
                progress=progress,
            )
            if kept is not None:
                write_state(kept, state)
        series.append(state.over(item_ids))
    return series


def continued(
    state: BehaviorState,
    interactions: pa.Table,
    item_ids: np.ndarray,
    *,
    as_of: datetime,
    settings: BehaviorSettings,
    seed: int,
    progress: Progress | None = None,
) -> BehaviorState:
    """The state as of a later cut-off, in the space of `state`: what a series through both cut-offs
    holds at the second.

    The catalogue may have grown or lost items since. Raises InputError as `behavior_series` does,
    and when as_of is not later or no event lies between.
    """
    as_of = utc(as_of, name="as_of")
    if as_of <= state.as_of:
        raise InputError(
            f"as_of is {as_of.isoformat()}, the state to continue from is as of"
            f" {state.as_of.isoformat()}; give a later cut-off"
        )
    past = _events(interactions, item_ids).before(as_of)
    if not (past.times >= instant(state.as_of)).any():
        raise InputError(
            f"no event lies between {state.as_of.isoformat()} and {as_of.isoformat()}: no new data,"
            " nothing to learn; bring newer interactions"
        )
    return _advanced(
        state,
        past,
        item_ids,
        as_of=as_of,
        settings=settings,
        seed=seed,
        label="behaviour",
        progress=progress,
    )


def _advanced(
    previous: BehaviorState | None,
    past: _Events,
    item_ids: np.ndarray,
    *,
    as_of: datetime,
    settings: BehaviorSettings,
    seed: int,
    label: str,
    progress: Progress | None,
) -> BehaviorState:
    """Train on the past, from `previous` on, and carry the vectors over. Chance is drawn from
    (seed, as_of).
    """
    started = time.perf_counter()
    counts = np.bincount(past.items, minlength=len(item_ids))
    known = np.flatnonzero(counts)
    start = None if previous is None else _aligned(previous, item_ids[known])
    chance = (seed, int(instant(as_of).astype(np.int64)))
    model = _train(
        _sequences(past, known),
        counts[known],
        start,
        settings=settings,
        seed=chance,
        label=label,
        progress=progress,
    )
    parameters = {name: tensor.numpy() for name, tensor in model.items()}
    learned = BehaviorVectors(as_of, parameters["table"], np.ones(len(known), bool), counts[known])
    now = (
        learned
        if previous is None
        else carried(
            previous.over(item_ids[known]), learned, new_event_weight=settings.new_event_weight
        )
    )
    logger.info(
        "stage=behavior as_of=%s events=%d items=%d seconds=%.1f",
        as_of.isoformat(),
        len(past.items),
        len(known),
        time.perf_counter() - started,
    )
    return BehaviorState(
        as_of,
        item_ids[known],
        now.vectors,
        now.interaction_count,
        parameters,
        now.alignment_residual,
    )


def _aligned(state: BehaviorState, item_ids: np.ndarray) -> _Start:
    """The parameters to start from, the table's rows in the order of `item_ids` [K], and which of
    them were known.
    """
    rows, known = find_rows(state.item_ids, item_ids)
    tensors = {name: torch.from_numpy(array) for name, array in state.parameters.items()}
    return _Start({**tensors, "table": tensors["table"][rows]}, torch.from_numpy(known))


def carried(
    previous: BehaviorVectors, learned: BehaviorVectors, *, new_event_weight: float
) -> BehaviorVectors:
    """The vectors as of learned.as_of, in the space of `previous`: each item's vector of then,
    moved by its share of new evidence.

    learned is rotated onto `previous` (orthogonal Procrustes on common items); an item with n
    events then and m since goes w m / (n + w m) of the way to it, w = new_event_weight. An item
    without new events keeps its vector to the bit, one that was not seen before takes the learned
    one. Taking every learned vector as it is moved them all, at every cut-off: optimiser noise,
    since most items had no event in between.
    """
    common = previous.present & learned.present
    turned = learned.vectors @ _rotation(learned.vectors[common], previous.vectors[common])
    old = previous.interaction_count
    new = new_event_weight * np.maximum(learned.interaction_count - old, 0)
    share = (new / np.maximum(old + new, 1e-12))[:, None]
    vectors = (previous.vectors + share * (turned - previous.vectors)).astype(np.float32)
    residual = float(
        np.linalg.norm(turned[common] - previous.vectors[common])
        / np.linalg.norm(previous.vectors[common])
    )
    return replace(
        learned, vectors=np.where(share > 0, vectors, previous.vectors), alignment_residual=residual
    )


def drift(a: BehaviorVectors, b: BehaviorVectors) -> dict[str, float]:
    """How far common items moved from `a` to `b`.

    items: how many are in both. cosine_mean, cosine_median: of an item's two vectors. residual: ||A
    - B|| / ||B||. The same after the best rotation of A onto B (orthogonal Procrustes) under
    `rotated_`: where rotation gains little, the two already share a space.
    """
    common = a.present & b.present
    left, right = a.vectors[common].astype(np.float64), b.vectors[common].astype(np.float64)
    rotated = left @ _rotation(left, right)
    facts: dict[str, float] = {"items": int(common.sum())}
    for prefix, matrix in (("", left), ("rotated_", rotated)):
        cosine = _cosine(matrix, right)
        facts[f"{prefix}cosine_mean"], facts[f"{prefix}cosine_median"] = (
            float(cosine.mean()),
            float(np.median(cosine)),
        )
        facts[f"{prefix}residual"] = float(np.linalg.norm(matrix - right) / np.linalg.norm(right))
    return facts


def half_agreement(
    interactions: pa.Table,
    item_ids: np.ndarray,
    *,
    as_of: datetime,
    settings: BehaviorSettings,
    seed: int,
    progress: Progress | None = None,
) -> np.ndarray:
    """How well two halves of the users agree about each item: a reliability that no count or norm
    enters. float32 [N] in [-1, 1], NaN where an item is absent from a half.

    Each user's whole sequence goes to one half: users are independent of each other, the events of
    one user are not, and a sequence with holes is another sequence. The halves start from different
    initial rows (equal ones would agree about items that nobody taught), and are centred and
    rotated onto each other (orthogonal Procrustes on the common items) before the cosine.
    """
    as_of = utc(as_of, name="as_of")
    every = _events(interactions, item_ids)
    events = every.before(as_of)
    _check_trainable(events, as_of, every)
    users = np.unique(events.users)
    first = np.random.default_rng([seed, 0]).permutation(len(users)) < len(users) // 2
    mask = first[np.searchsorted(users, events.users)]
    tables, present = [], []
    for number, half in enumerate((events.select(mask), events.select(~mask))):
        _check_trainable(half, as_of, half)
        known, counts = np.unique(half.items, return_counts=True)
        model = _train(
            _sequences(half, known),
            counts,
            None,
            settings=settings,
            seed=(seed, 1 + number),
            label=f"half {number + 1}/2",
            progress=progress,
        )
        tables.append(np.zeros((len(item_ids), settings.dim), np.float32))
        tables[-1][known] = model["table"].numpy()
        present.append(np.isin(np.arange(len(item_ids)), known))
    common = present[0] & present[1]
    agreement = np.full(len(item_ids), np.nan, np.float32)
    if common.any():
        left, right = (t[common] - t[common].mean(axis=0) for t in tables)
        agreement[common] = _cosine(left @ _rotation(left, right), right)
    return agreement


def _events(interactions: pa.Table, item_ids: np.ndarray) -> _Events:
    missing = {"user_id", "item_id", "time"} - set(interactions.column_names)
    if missing:
        raise InputError(
            f"interactions lack the columns {sorted(missing)}; they have"
            f" {interactions.column_names}"
        )
    if interactions.num_rows == 0:
        raise InputError("interactions are empty; expected at least two users with two events")
    kind = interactions["time"].type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise InputError(
            f"interaction times are of type {kind}; expected timestamps with a time zone, cast them"
            " to timestamp[us, tz=UTC]"
        )
    if interactions["time"].null_count:
        raise InputError(
            f"{interactions['time'].null_count} interaction times are null; drop these rows"
        )
    if len(item_ids) == 0:
        raise InputError("item_ids is empty; expected the catalogue that the interactions speak of")
    check_unique_ids(item_ids)
    users = np.unique(id_array(interactions["user_id"]), return_inverse=True)[1]
    ids = id_array(interactions["item_id"])
    order = np.argsort(item_ids, kind="stable")
    items = order[np.minimum(np.searchsorted(item_ids, ids, sorter=order), len(order) - 1)]
    unknown = np.flatnonzero(item_ids[items] != ids)
    if len(unknown):
        raise InputError(
            f"{len(unknown)} interactions are with items that the catalogue lacks (first"
            f" {ids[unknown[0]]!r}); add the items or drop the rows"
        )
    times = (
        interactions["time"].cast(pa.timestamp("us", tz="UTC")).to_numpy().astype("datetime64[us]")
    )
    by_user = np.lexsort((times, users))
    return _Events(users[by_user], items[by_user], times[by_user])


def _check_trainable(past: _Events, as_of: datetime, every: _Events) -> None:
    users, items = len(np.unique(past.users)), len(np.unique(past.items))
    if len(past.items) == 0:
        raise InputError(
            f"no event before {as_of.isoformat()}, the first is at {every.times.min()}; choose a"
            " later cut-off"
        )
    if users < 2 or items < 2 or len(past.users) == users:
        raise InputError(
            f"before {as_of.isoformat()} there are {len(past.items)} events of {users} users with"
            f" {items} items; expected two users, two items and a user with two events: choose a"
            " later cut-off or bring more interactions"
        )


def _sequences(events: _Events, known: np.ndarray) -> Sequences:
    """The users with at least two events, items as row numbers among `known`."""
    starts = np.flatnonzero(np.diff(events.users, prepend=-1))
    counts = np.diff(starts, append=len(events.users))
    kept = np.repeat(counts > 1, counts)
    return Sequences(np.searchsorted(known, events.items[kept]), np.cumsum(counts[counts > 1]))


def _train(
    sequences: Sequences,
    counts: np.ndarray,
    start: _Start | None,
    *,
    settings: BehaviorSettings,
    seed: tuple[int, int],
    label: str,
    progress: Progress | None,
) -> dict[str, Tensor]:
    """SASRec's parameters. Fresh optimiser, learning rate up and down once; `start` gives every
    tensor except the rows of new items.

    counts: int64 [K], the events of each known item.
    """
    s = settings
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):  # dropout takes no generator
        torch.manual_seed(int(rng.integers(2**62)))
        model = SASRec(
            len(counts),
            dim=s.dim,
            blocks=s.blocks,
            length=s.length,
            dropout=s.dropout,
            init_std=s.init_std,
        )
        if start is not None:
            table = torch.where(start.known[:, None], start.tensors["table"], model.table.detach())
            model.load_state_dict({**start.tensors, "table": table})
        prior = torch.from_numpy(np.log(counts).astype(np.float32))
        rows = s.batch // s.length
        epochs = s.epochs if start is None else s.continued_epochs
        steps = epochs * -(-sequences.transitions // (s.length * rows))
        network = [p for name, p in model.named_parameters() if name != "table"]
        groups = [
            {"params": [model.table], "weight_decay": s.table_decay},
            {"params": network, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=s.learning_rate, betas=(0.9, 0.98), fused=True)
        warm = max(1, steps // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
        )
        for epoch in range(epochs):
            losses = []
            for batch in packed_batches(sequences, length=s.length, rows=rows, rng=rng):
                wanted = batch.targets >= 0
                loss = next_item_loss(
                    model(batch)[wanted], model.table, batch.targets[wanted], s.loss, prior_I=prior
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
            logger.debug("stage=%s epoch=%d loss=%.4f", label, epoch + 1, np.mean(losses))
            if progress is not None:
                progress(label, epoch + 1, epochs)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def _rotation(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The rotation of `left` that comes nearest to `right` (orthogonal Procrustes): float64
    [D, D].
    """
    from scipy.linalg import orthogonal_procrustes

    return orthogonal_procrustes(left.astype(np.float64), right.astype(np.float64))[0]


def _cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.einsum("nd,nd->n", left, right) / np.maximum(norms, 1e-12)
