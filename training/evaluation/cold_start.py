"""How rankers treat items that are new. Reads: rows of windows, scores. Writes: groups of rows,
estimates by group.

A window's rows are grouped by what the rows before it hold of their items, so that a group says
what a ranker that was trained up to there could know of an item.

Legend: N rows, S fits, W windows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.codes.sids import find_rows
from adc_features.errors import InputError
from adc_features.loader.frame import TrainingFrame
from training.evaluation.metrics import (
    Estimate,
    PairedBootstrap,
    popularity_slices,
    training_counts,
)

EVENTS = {"0": (0, 0), "1-3": (1, 3), "4-9": (4, 9), "10+": (10, None)}
"""Training events of the row's item: name of the group -> least and most."""
AGES = {"0-89": (0, 89), "90-364": (90, 364), "365+": (365, None)}
"""Days from the item's first training event to the row."""
_DAY = np.timedelta64(1, "D")


def cold_start_groups(before: TrainingFrame, scored: TrainingFrame) -> dict[str, np.ndarray]:
    """Rows of a window by the events, the age and the popularity of their items before it.

    Parameters
    ----------
    before : TrainingFrame
        What a ranker of this window is trained on.
    scored : TrainingFrame
        The window, N rows.

    Returns
    -------
    dict of str to ndarray
        "all", "events <group>" of `EVENTS`, "days <group>" of `AGES` for items that were seen
        before, and "popularity <slice>" -> mask, bool [N].

    Raises
    ------
    InputError
        The window is not after the rows before it: a group would tell of events that training did
        not see.
    """
    if len(before) and len(scored) and before.times.max() >= scored.times.min():
        raise InputError(
            f"rows before the window reach {before.times.max()}, the window begins"
            f" {scored.times.min()}; give rows that are older than the window"
        )
    counts = training_counts(before.item_ids, scored.item_ids)
    groups = {"all": np.ones(len(scored), bool)}
    groups |= {f"events {name}": _within(counts, *ends) for name, ends in EVENTS.items()}
    age = _days(before, scored)
    groups |= {f"days {name}": _within(age, *ends) for name, ends in AGES.items()}
    slices = popularity_slices(counts)
    return groups | {f"popularity {name}": mask for name, mask in slices.items()}


def estimates_by_group(
    bootstrap: PairedBootstrap,
    scores: np.ndarray,
    groups: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, dict[str, Estimate]]:
    """AUC and GAUC of each group: means over windows, weighted by the group's rows.

    Scores of two windows come from two rankers and are not compared with each other. A window in
    which a group has one class alone, or for GAUC no user with both, says nothing of it.

    Parameters
    ----------
    bootstrap : PairedBootstrap
        The rows of all windows, one after the other.
    scores : ndarray
        Probabilities, float [S, N].
    groups : sequence of mapping
        Of each window: group -> mask of its rows, as `cold_start_groups` gives them.

    Returns
    -------
    dict
        group -> {"auc": Estimate, "gauc": Estimate}; NaN where no window tells.
    """
    ends = np.cumsum([0, *(len(of["all"]) for of in groups)])
    found: dict[str, dict[str, Estimate]] = {}
    for name in groups[0]:
        masks = [np.zeros(ends[-1], bool) for _ in groups]
        for place, (mask, of) in enumerate(zip(masks, groups, strict=True)):
            mask[ends[place] : ends[place + 1]] = of[name]
        rows = [int(mask.sum()) for mask in masks]
        found[name] = {
            metric: _pooled([getattr(bootstrap, metric)(scores, mask) for mask in masks], rows)
            for metric in ("auc", "gauc")
        }
    return found


def with_unseen_ids(frame: TrainingFrame) -> TrainingFrame:
    """The same rows, of twins of their items: of equal content and history, with ids that no ranker
    has seen. A ranker that reads content alone scores both alike.

    Source
    ------
    Pairs of equal items as a measure of stability: Enhancing Embedding Representation Stability in
    Recommendation Systems with Semantic ID, arXiv 2504.02137.
    """
    table = frame.table
    twins = pc.binary_join_element_wise("twin of", table["item_id"].cast(pa.string()), " ")
    place = table.column_names.index("item_id")
    return replace(frame, table=table.set_column(place, "item_id", twins))


def _within(values: np.ndarray, least: int, most: int | None) -> np.ndarray:
    inside: np.ndarray = values >= least
    return inside if most is None else inside & (values <= most)


def _days(before: TrainingFrame, scored: TrainingFrame) -> np.ndarray:
    """Days since the item's first row before the window, int64 [N]; -1 for none."""
    items, row = np.unique(before.item_ids, return_inverse=True)
    if not len(items):
        return np.full(len(scored), -1)
    first = np.full(len(items), np.iinfo(np.int64).max)
    np.minimum.at(first, row, before.times.astype("datetime64[us]").astype(np.int64))
    place, known = find_rows(items, scored.item_ids)
    since = scored.times - first[place].astype("datetime64[us]")
    return np.where(known, since // _DAY, -1).astype(np.int64)


def _pooled(estimates: Sequence[Estimate], rows: Sequence[int]) -> Estimate:
    told = [n for n, e in enumerate(estimates) if np.isfinite(e.value)]
    if not told:
        return Estimate(float("nan"), np.full(len(estimates[0].draws), np.nan))
    weights = np.array([rows[n] for n in told], float)
    values = np.array([estimates[n].value for n in told])
    draws = np.stack([estimates[n].draws for n in told])
    return Estimate(
        float(np.average(values, weights=weights)), np.average(draws, axis=0, weights=weights)
    )
