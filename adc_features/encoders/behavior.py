"""Item vectors learned from interactions, as of several times. Reads: interactions, item ids,
content. Writes: BehaviorVectors.

One encoder learns up to the first cut-off and is continued, in order of time, to each later one.
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

from adc_features.clock import instant, utc
from adc_features.codes.sids import find_rows
from adc_features.encoders.behavior_encoders import ENCODERS, Encoder, encoder_of
from adc_features.encoders.behavior_settings import (
    RECIPES,
    BehaviorSettings,
    ContentSettings,
    Settings,
    full_softmax,
    norm_rising,
)
from adc_features.encoders.behavior_state import (
    BehaviorState,
    BehaviorVectors,
    read_state,
    write_state,
)
from adc_features.encoders.event_log import Events, check_trainable, event_log
from adc_features.encoders.evidence import Content, Evidence, Progress, Start, known_content
from adc_features.encoders.rotation import carried, cosine, drift, rotation
from adc_features.errors import InputError

__all__ = [
    "ENCODERS",
    "RECIPES",
    "BehaviorSettings",
    "BehaviorState",
    "BehaviorVectors",
    "Content",
    "Encoder",
    "behavior_series",
    "carried",
    "continued",
    "drift",
    "encoder_of",
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
    settings: Settings,
    seed: int,
    content: Sequence[Content] | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> list[BehaviorVectors]:
    """An encoder's item vectors as of each cut-off, all of them in one space.

    Parameters
    ----------
    interactions : pyarrow.Table
        `user_id`, `item_id` and `time` (a timestamp with a zone), in any order; events of one user
        at one time keep their row order.
    item_ids : int64 or str [N]
        Unique; every item of the interactions is among them.
    cutoffs : sequence of datetime
        Aware and ascending; each is exclusive.
    settings : BehaviorSettings, ContentSettings or FactorSettings
        For example `full_softmax()`, or another of `RECIPES`; their class says which of `ENCODERS`.
    seed : int
        The same seed gives the same vectors on one machine.
    content : sequence of Content, optional
        One for each cut-off, for encoders that read content: by modality, vectors float32 [N, C]
        and presence bool [N] of the items, as known before it.
    checkpoint : Path, optional
        A directory where each cut-off's state is kept. A later call with the same past, settings
        and seed starts from it and returns what an uninterrupted call would have.
    progress : callable, optional
        Called with a label, the steps done and their number.
    device : {"cpu", "auto", "cuda"}
        Where SASRec is trained; see `adc_features.devices`.

    Returns
    -------
    list of BehaviorVectors
        One for each cut-off: float32 [N, D],
        zero and not present for items without an event before it.

    Raises
    ------
    InputError
        Before any training: empty or naive input, null or unknown ids, cut-offs out of order,
        fewer than two users, two items, or one user with two events before the first cut-off, or
        no content where the encoder reads it.
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
    SASRec (Kang and McAuley 2018), arXiv 1808.09781; of the others at their `learn`.
    """
    cutoffs = [utc(c, name="cut-off") for c in cutoffs]
    if not cutoffs or any(a >= b for a, b in pairwise(cutoffs)):
        raise InputError(
            f"cut-offs are {[c.isoformat() for c in cutoffs]}; expected at least one, ascending,"
            " none twice"
        )
    events = event_log(interactions, item_ids)
    check_trainable(events.before(cutoffs[0]), cutoffs[0], events)
    settings = _suited(settings, content)
    found = _contents(content, settings, cutoffs, len(item_ids))
    state: BehaviorState | None = None
    series: list[BehaviorVectors] = []
    history = hashlib.sha256(repr((asdict(settings), seed)).encode())
    for number, as_of in enumerate(cutoffs):
        past = events.before(as_of)
        for part in (item_ids[past.items], np.flatnonzero(np.diff(past.users, prepend=-1))):
            history.update(np.ascontiguousarray(part).tobytes())
        met = np.unique(past.items)
        for name, (vectors, there) in found[number].items():
            history.update(name.encode() + vectors[met].tobytes() + there[met].tobytes())
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
                found[number],
                as_of=as_of,
                settings=settings,
                seed=seed,
                label=f"behaviour {number + 1}/{len(cutoffs)}",
                progress=progress,
                device=device,
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
    settings: Settings,
    seed: int,
    content: Content | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
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
    found = None if content is None else [content]
    settings = _suited(settings, found)
    return _advanced(
        state,
        past,
        item_ids,
        _contents(found, settings, [as_of], len(item_ids))[0],
        as_of=as_of,
        settings=settings,
        seed=seed,
        label="behaviour",
        progress=progress,
        device=device,
    )


def _suited(settings: Settings, content: Sequence[Content] | None) -> Settings:
    """The settings; of `sasrec_content`, which is the default, those of SASRec alone where the
    catalogue is given as one without content.
    """
    if isinstance(settings, ContentSettings) and content is not None and not any(content):
        logger.warning("stage=behavior items have no content: learned from events alone")
        return settings.sasrec
    return settings


def _contents(
    content: Sequence[Content] | None,
    settings: Settings,
    cutoffs: Sequence[datetime],
    items: int,
) -> list[Content]:
    """Content of the catalogue at each cut-off, checked; nothing for encoders that read none."""
    if not encoder_of(settings).reads_content:
        return [{}] * len(cutoffs)
    content = [{}] if content is None else content
    every = np.arange(items)
    checked = [known_content(at, items, every) for at in content]
    if len(checked) != len(cutoffs):
        raise InputError(f"there is content of {len(checked)} times for {len(cutoffs)} cut-offs")
    return checked


def _evidence(past: Events, content: Content, items: int) -> Evidence:
    counts = np.bincount(past.items, minlength=items)
    known = np.flatnonzero(counts)
    return Evidence(
        past, known, counts[known], {m: (v[known], p[known]) for m, (v, p) in content.items()}
    )


def _advanced(
    previous: BehaviorState | None,
    past: Events,
    item_ids: np.ndarray,
    content: Content,
    *,
    as_of: datetime,
    settings: Settings,
    seed: int,
    label: str,
    progress: Progress | None,
    device: str,
) -> BehaviorState:
    """Learn from the past, from `previous` on, and carry the vectors over. Chance is drawn from
    (seed, as_of).
    """
    started = time.perf_counter()
    evidence = _evidence(past, content, len(item_ids))
    ids = item_ids[evidence.known]
    learned = encoder_of(settings).learn(
        evidence,
        None if previous is None else _aligned(previous, ids),
        settings=settings,
        seed=(seed, int(instant(as_of).astype(np.int64))),
        label=label,
        progress=progress,
        device=device,
    )
    now = BehaviorVectors(as_of, learned.vectors, np.ones(len(ids), bool), evidence.counts)
    if previous is not None:
        now = carried(previous.over(ids), now, new_event_weight=settings.new_event_weight)
    logger.info(
        "stage=behavior as_of=%s events=%d items=%d seconds=%.1f",
        as_of.isoformat(),
        len(past.items),
        len(ids),
        time.perf_counter() - started,
    )
    return BehaviorState(
        as_of,
        ids,
        now.vectors,
        now.interaction_count,
        learned.parameters,
        now.alignment_residual,
    )


def _aligned(state: BehaviorState, item_ids: np.ndarray) -> Start:
    """What to start from, the table's rows in the order of `item_ids` [K]."""
    rows, known = find_rows(state.item_ids, item_ids)
    return Start({**state.parameters, "table": state.parameters["table"][rows]}, known)


def half_agreement(
    interactions: pa.Table,
    item_ids: np.ndarray,
    *,
    as_of: datetime,
    settings: Settings,
    seed: int,
    content: Content | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """How well two halves of the users agree about each item: a reliability that no count or norm
    enters. float32 [N] in [-1, 1], NaN where an item is absent from a half. Where the encoder reads
    content, both halves do: they agree about what it says.

    Each user's whole sequence goes to one half: users are independent of each other, the events of
    one user are not, and a sequence with holes is another sequence. The halves start from different
    initial rows (equal ones would agree about items that nobody taught), and are centred and
    rotated onto each other (orthogonal Procrustes on the common items) before the cosine.
    """
    as_of = utc(as_of, name="as_of")
    every = event_log(interactions, item_ids)
    events = every.before(as_of)
    check_trainable(events, as_of, every)
    given = None if content is None else [content]
    settings = _suited(settings, given)
    [found] = _contents(given, settings, [as_of], len(item_ids))
    users = np.unique(events.users)
    first = np.random.default_rng([seed, 0]).permutation(len(users)) < len(users) // 2
    mask = first[np.searchsorted(users, events.users)]
    tables, present = [], []
    for number, half in enumerate((events.select(mask), events.select(~mask))):
        check_trainable(half, as_of, half)
        evidence = _evidence(half, found, len(item_ids))
        learned = encoder_of(settings).learn(
            evidence,
            None,
            settings=settings,
            seed=(seed, 1 + number),
            label=f"half {number + 1}/2",
            progress=progress,
            device=device,
        )
        tables.append(np.zeros((len(item_ids), learned.vectors.shape[1]), np.float32))
        tables[-1][evidence.known] = learned.vectors
        present.append(np.isin(np.arange(len(item_ids)), evidence.known))
    common = present[0] & present[1]
    agreement = np.full(len(item_ids), np.nan, np.float32)
    if common.any():
        left, right = (t[common] - t[common].mean(axis=0) for t in tables)
        agreement[common] = cosine(left @ rotation(left, right), right)
    return agreement
