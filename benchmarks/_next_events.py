"""How well item vectors tell what users who did not make them do next.
Reads: events of other users, vectors. Writes: log-likelihoods and ranks.

Legend: E events, N items, S similarities, G groups of items, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from adc_features.encoders.event_log import Events

GROUPS = {"0": 0, "1-3": 1, "4-9": 4, "10+": 10}
"""Items by their events on the side that made the vectors: name -> the least number."""
HISTORY = 10
"""How many of a user's latest items say what the user is after."""
CANDIDATES = 300
"""Drawn items that each event's own is told from while a reading is fitted; judged among all."""
PART = 300


@dataclass(frozen=True)
class NextEvents:
    """Events of the other users, each with what its user had met on earlier days.

    user: [E]. target: int64 [E]. history: E arrays of item rows, oldest first. count: int64 [N],
    events of each item on the side that made the vectors, by which it is in a group.
    """

    user: np.ndarray
    target: np.ndarray
    history: list[np.ndarray]
    count: np.ndarray

    @property
    def group(self) -> np.ndarray:
        """int64 [N]."""
        return np.searchsorted(list(GROUPS.values()), self.count, side="right") - 1


def next_events(
    events: Events, count: np.ndarray, start: datetime, end: datetime, *, most: int, seed: int
) -> NextEvents:
    """At most `most` of the events in [start, end), drawn, of users with an earlier day.

    events: those of the other users up to `end`, by user, then time.
    """
    from adc_features.clock import instant

    users, times = events.users, events.times
    first, places = np.searchsorted(users, users), np.arange(len(users))
    new = (np.diff(users, prepend=-1) != 0) | (np.diff(times, prepend=times[:1]) != 0)
    earlier = np.maximum.accumulate(np.where(new, places, 0)) - first
    asked = np.flatnonzero((times >= instant(start)) & (times < instant(end)) & (earlier > 0))
    rng = np.random.default_rng((seed, 1))
    asked = np.sort(rng.permutation(asked)[:most])
    history = [events.items[first[e] : first[e] + earlier[e]] for e in asked]
    return NextEvents(users[asked], events.items[asked], history, count)


def similarity(asked: NextEvents, vectors: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Cosine of each item with the mean of the user's latest items, float32 [E, N]; 0 where either
    has no vector. Vectors are centred over the items that have one.
    """
    centred = np.zeros(vectors.shape, np.float32)
    centred[present] = _unit(vectors[present] - vectors[present].mean(0))
    profile = np.stack([centred[h[-HISTORY:]].mean(0) for h in asked.history])
    return _unit(profile) @ centred.T


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-9)).astype(np.float32)


def judged(
    asked: NextEvents, similarities: list[np.ndarray], *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood and rank (0 is first, ties share) of each event's item among all, float64 [E].

    The reading is a softmax over items of: a level for each group, a slope on the log of the
    count, and for each group a weight of each similarity; a vector that is noise for rare items
    loses its weight there. It is fitted on the other half of these users, and judged on this one.
    """
    rng = np.random.default_rng((seed, 2))
    users, number = np.unique(asked.user, return_inverse=True)
    fold = (rng.permutation(len(users)) % 2)[number]
    drawn = rng.integers(len(asked.count), size=(len(asked.target), CANDIDATES))
    inputs = _inputs(asked, similarities, np.concatenate([asked.target[:, None], drawn], axis=1))
    likelihood, rank = np.zeros(len(fold)), np.zeros(len(fold))
    for half in (0, 1):
        weights = _fitted(inputs[fold != half])
        rows = np.flatnonzero(fold == half)
        for part in np.array_split(rows, max(1, len(rows) // PART)):
            likelihood[part], rank[part] = _among_all(asked, similarities, weights, part)
    return likelihood, rank


def _inputs(asked: NextEvents, similarities: list[np.ndarray], items: np.ndarray) -> np.ndarray:
    """What the reading weighs of candidates [E, C]: float32 [E, C, G - 1 + 1 + S * G]."""
    hot = np.eye(len(GROUPS), dtype=np.float32)[asked.group[items]]
    rows = np.arange(len(items))[:, None]
    count = np.log1p(asked.count)[items].astype(np.float32)
    told = [hot * s[rows, items][:, :, None] for s in similarities]
    return np.concatenate([hot[:, :, 1:], count[:, :, None], *told], axis=2)


def _fitted(inputs: np.ndarray) -> np.ndarray:
    """Weights of the softmax that tells the first candidate from the drawn ones."""
    from scipy.optimize import minimize

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = inputs @ weights.astype(np.float32)
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        expected = np.einsum("ec,ecf->f", share, inputs) / len(inputs)
        gradient = expected - inputs[:, 0].mean(0) + 2e-4 * weights
        value = -np.log(share[:, 0] + 1e-30).mean() + 1e-4 * weights @ weights
        return float(value), gradient.astype(np.float64)

    return minimize(
        loss, np.zeros(inputs.shape[2]), jac=True, method="L-BFGS-B", options={"maxiter": 60}
    ).x.astype(np.float32)


def _among_all(
    asked: NextEvents, similarities: list[np.ndarray], weights: np.ndarray, part: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of these events; items that their users had met before are no candidates."""
    groups, group = len(GROUPS), asked.group
    level = np.append(np.float32(0), weights[: groups - 1])[group]
    level += weights[groups - 1] * np.log1p(asked.count).astype(np.float32)
    logits = np.tile(level, (len(part), 1))
    for number, s in enumerate(similarities):
        logits += weights[groups * (number + 1) :][:groups][group] * s[part]
    target, rows = asked.target[part], np.arange(len(part))
    own = logits[rows, target]
    for row, event in enumerate(part):
        logits[row, asked.history[event]] = -np.inf
    logits[rows, target] = own
    largest = logits.max(1)
    total = np.log(np.exp(logits - largest[:, None]).sum(1)) + largest
    ties = (logits == own[:, None]).sum(1) - 1
    return own - total, (logits > own[:, None]).sum(1) + ties / 2
