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
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from adc_features.clock import instant, utc
from adc_features.codes.sids import find_rows
from adc_features.encoders.behavior_settings import (
    RECIPES,
    BehaviorSettings,
    full_softmax,
    norm_rising,
)
from adc_features.encoders.behavior_state import (
    BehaviorState,
    BehaviorVectors,
    read_state,
    write_state,
)
from adc_features.encoders.event_log import Events, check_trainable, event_log, sequences_of
from adc_features.encoders.rotation import carried, cosine, drift, rotation
from adc_features.encoders.sasrec_training import Progress, Start, train
from adc_features.errors import InputError

__all__ = [
    "RECIPES",
    "BehaviorSettings",
    "BehaviorState",
    "BehaviorVectors",
    "behavior_series",
    "carried",
    "continued",
    "drift",
    "full_softmax",
    "half_agreement",
    "norm_rising",
    "read_state",
    "write_state",
]

logger = logging.getLogger(__name__)


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
    """SASRec's item table as of each cut-off, all of them in one space.

    Parameters
    ----------
    interactions : pyarrow.Table
        `user_id`, `item_id` and `time` (a timestamp with a zone), in any order; events of one user
        at one time keep their row order.
    item_ids : int64 or str [N]
        Unique; every item of the interactions is among them.
    cutoffs : sequence of datetime
        Aware and ascending; each is exclusive.
    settings : BehaviorSettings
        For example `full_softmax()`, or another of `RECIPES`.
    seed : int
        The same seed gives the same vectors on one machine.
    checkpoint : Path, optional
        A directory where each cut-off's state is kept. A later call with the same past, settings
        and seed starts from it and returns what an uninterrupted call would have.
    progress : callable, optional
        Called with a label, the steps done and their number.

    Returns
    -------
    list of BehaviorVectors
        One for each cut-off: float32 [N, D],
        zero and not present for items without an event before it.

    Raises
    ------
    InputError
        Before any training: empty or naive input, null or unknown ids, cut-offs out of order, or
        fewer than two users, two items, or one user with two events before the first cut-off.
    ArtifactError
        A checkpoint is not what was written.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from datetime import UTC
    >>> days = [datetime(2024, 1, day, tzinfo=UTC) for day in range(1, 9)]
    >>> log = pa.table(
    ...     {
    ...         "user_id": ["u", "v"] * 4,
    ...         "item_id": ["a", "b", "b", "a", "a", "b", "b", "a"],
    ...         "time": pa.array(days, pa.timestamp("us", tz="UTC")),
    ...     }
    ... )
    >>> small = replace(full_softmax(), dim=4, blocks=1, length=4, batch=8, epochs=1)
    >>> [series] = behavior_series(
    ...     log, np.array(["a", "b", "new"]), cutoffs=[days[-1]], settings=small, seed=0
    ... )
    >>> series.vectors.shape, series.present.tolist()
    ((3, 4), [True, True, False])

    Source
    ------
    SASRec (Kang and McAuley 2018), arXiv 1808.09781.
    """
    cutoffs = [utc(c, name="cut-off") for c in cutoffs]
    if not cutoffs or any(a >= b for a, b in pairwise(cutoffs)):
        raise InputError(
            f"cut-offs are {[c.isoformat() for c in cutoffs]}; expected at least one, ascending,"
            " none twice"
        )
    events = event_log(interactions, item_ids)
    check_trainable(events.before(cutoffs[0]), cutoffs[0], events)
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
    past = event_log(interactions, item_ids).before(as_of)
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
    past: Events,
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
    model = train(
        sequences_of(past, known),
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


def _aligned(state: BehaviorState, item_ids: np.ndarray) -> Start:
    """The parameters to start from, the table's rows in the order of `item_ids` [K], and which of
    them were known.
    """
    rows, known = find_rows(state.item_ids, item_ids)
    tensors = {name: torch.from_numpy(array) for name, array in state.parameters.items()}
    return Start({**tensors, "table": tensors["table"][rows]}, torch.from_numpy(known))


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
    every = event_log(interactions, item_ids)
    events = every.before(as_of)
    check_trainable(events, as_of, every)
    users = np.unique(events.users)
    first = np.random.default_rng([seed, 0]).permutation(len(users)) < len(users) // 2
    mask = first[np.searchsorted(users, events.users)]
    tables, present = [], []
    for number, half in enumerate((events.select(mask), events.select(~mask))):
        check_trainable(half, as_of, half)
        known, counts = np.unique(half.items, return_counts=True)
        model = train(
            sequences_of(half, known),
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
        agreement[common] = cosine(left @ rotation(left, right), right)
    return agreement
