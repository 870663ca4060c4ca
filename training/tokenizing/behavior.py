"""Behaviour of items. Reads: a label log. Writes: interactions, BehaviorVectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from adc_features.clock import instant
from adc_features.codes.embeddings import id_array
from adc_features.encoders.behavior_settings import Settings
from adc_features.encoders.behavior_state import BehaviorVectors, read_state, write_state
from adc_features.encoders.evidence import Content
from adc_features.errors import InputError
from adc_features.event_times import UTC_US
from adc_features.inputs.declaration import Ranker
from adc_features.ranking.base import Progress
from training.ranker.label_sources import LabelSource, source_name
from training.ranker.labels import group_numbers, read_labels
from training.ranker.ripening import declared_window

_NAME = "%Y%m%dT%H%M%S%f"


@dataclass(frozen=True)
class LabelledEvents:
    """Which rows of a label log count as interactions.

    source: the label log. ranker: a ranker that it is of; tells keys and tasks. task: rows whose
    label is 1 count, from when that was known; by default the ranker's first.
    """

    source: LabelSource
    ranker: Ranker
    task: str | None = None


def interactions(repo: Path, events: LabelledEvents, join_key: str) -> pa.Table:
    """Positive rows as `user_id`, `item_id` and `time`, the time at which the label was known.

    Raises InputError where the log is wrong, has no key of the user or the item, or no positive
    row.
    """
    from adc_features.store.services.schema import service_schema

    ranker = events.ranker
    tasks = {task.name: task for task in ranker.tasks}
    name = events.task or next(iter(tasks))
    if name not in tasks:
        raise InputError(f"the ranker has no task {name!r}; its tasks are {list(tasks)}")
    if join_key not in ranker.item or not ranker.user:
        raise InputError(
            f"the ranker has the user keys {list(ranker.user)} and item keys {list(ranker.item)};"
            f" behaviour needs who acted, and {join_key!r} among the item keys: Ranker(user=...,"
            " item=...), or --user and --item"
        )
    log = read_labels(events.source, schema=service_schema(repo, ranker.service), ranker=ranker)
    task = tasks[name]
    known = log.times + np.timedelta64(declared_window(task) or 0, "us")
    if task.known_at is not None:
        known = log.table[task.known_at].cast(pa.timestamp("us")).to_numpy().astype(known.dtype)
    positive = (log.table[task.column or name].to_numpy() == 1) & ~np.isnat(known)
    if not positive.any():
        raise InputError(f"{source_name(events.source)} has no row with {name} = 1; name another")
    rows = pa.array(np.flatnonzero(positive))
    return pa.table(
        {
            "user_id": group_numbers(log.table, ranker.user)[positive],
            "item_id": log.table[join_key].take(rows),
            "time": pa.array(known[positive]).cast(UTC_US),
        }
    )


def fitted_behavior(
    events: pa.Table,
    ids: np.ndarray,
    times: Sequence[datetime],
    *,
    settings: Settings,
    seed: int,
    content: Callable[[int], Content],
    directory: Path,
    progress: Progress | None = None,
    device: str = "cpu",
) -> list[BehaviorVectors]:
    """Vectors of all items (ids [N]) as of each time; the states go into `directory`. content: of
    the items, by number of the time; asked for encoders that read it.
    """
    from adc_features.encoders.behavior import behavior_series, encoder_of

    reads = encoder_of(settings).reads_content

    return behavior_series(
        _of_items(events, ids),
        ids,
        cutoffs=times,
        settings=settings,
        seed=seed,
        content=[content(n) for n in range(len(times))] if reads else None,
        checkpoint=directory,
        progress=progress,
        device=device,
    )


def continued_behavior(
    events: pa.Table,
    ids: np.ndarray,
    as_of: datetime,
    *,
    settings: Settings,
    seed: int,
    content: Content,
    directory: Path,
    progress: Progress | None = None,
) -> BehaviorVectors:
    """Vectors as of a later time, continued from the newest state in `directory` before it, where
    the new state is kept. Without an event since then every item keeps its vector.
    """
    from adc_features.encoders.behavior import continued

    name = format(as_of, _NAME)
    earlier = sorted(p for p in directory.glob("*.npz") if p.name[: len(name)] < name)
    if not earlier:
        raise InputError(
            f"as_of {as_of.isoformat()} is not after the generation's first behaviour; choose a"
            " later one"
        )
    state = read_state(earlier[-1])
    times = events["time"].to_numpy().astype("datetime64[us]")
    if not ((times >= instant(state.as_of)) & (times < instant(as_of))).any():
        return state.over(ids)
    state = continued(
        state,
        _of_items(events, ids),
        ids,
        as_of=as_of,
        settings=settings,
        seed=seed,
        content=content,
        progress=progress,
    )
    write_state(directory / f"{name}.npz", state)
    return state.over(ids)


def _of_items(events: pa.Table, ids: np.ndarray) -> pa.Table:
    return events.filter(pa.array(np.isin(id_array(events["item_id"]), ids)))
