"""A long-tail catalogue whose truth is known. Reads: a seed. Writes: Dataset and Truth.

Every item has a latent vector. Text and image vectors show it through noise; users click by
popularity and taste, so the behaviour of popular items shows it well and that of rare items hardly;
labels follow taste, item quality and the user's level.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.codes.embeddings import EmbeddingTable, id_array, vector_matrix
from adc_features.codes.sids import find_rows
from adc_features.codes.spec import BEHAVIOR
from adc_features.data.dataset import TIME, Dataset, dataset_from_tables
from adc_features.errors import InputError

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 365


class Truth(NamedTuple):
    """What no data set tells. latent: float32 [N, D] per item; expected_count: float64 [N]
    interactions; quality: float64 [N], logit.
    """

    item_ids: np.ndarray
    latent: np.ndarray
    expected_count: np.ndarray
    quality: np.ndarray


class Sessions(NamedTuple):
    """Users who come for a while and in a mood. length: events of a session; gap: seconds from one
    to the next, on average; mood: standard deviation, in logits, of what moves all labels of a
    session.
    """

    length: int = 8
    gap: float = 60.0
    mood: float = 2.0


class Synthetic(NamedTuple):
    """A catalogue and its truth, apart: nothing that reads the dataset can read the truth."""

    dataset: Dataset
    truth: Truth


def synthetic(
    *,
    seed: int,
    items: int = 2_000,
    users: int = 2_500,
    interactions: int = 40_000,
    content_noise: float = 0.5,
    sessions: Sessions | None = None,
    bend: float = 0.0,
) -> Synthetic:
    """A catalogue of `items` with Zipf-like popularity, day-resolution times over one year, two
    vector modalities.

    content_noise: standard deviation of the noise on text vectors, in units of the signal's; image
    vectors get 1.5 times it, and one item in ten has no image. Items are launched through the first
    ten months, so some are cold at any cut-off. sessions: events then come in sessions and carry
    seconds: what a user did a minute ago tells of the next label, what they did yesterday does not.
    bend: 0 makes vectors linear in the latent; above it they come through a hidden layer of tanh,
    which bends the more the larger it is.
    """
    if min(items, users, interactions) < 100:
        raise InputError(
            f"asked for {items} items, {users} users, {interactions} interactions; expected at"
            " least 100 of each"
        )
    rng = np.random.default_rng(seed)
    dims, groups = 16, 40
    centres = rng.normal(size=(groups, dims))
    group = rng.integers(groups, size=items)
    latent = (centres[group] + 0.6 * rng.normal(size=(items, dims))).astype(np.float32)
    latent /= np.linalg.norm(latent, axis=1, keepdims=True)
    popularity = rng.permutation(1.0 / np.arange(1, items + 1) ** 0.9)
    quality = 0.8 * rng.normal(size=items)
    launch = np.where(rng.random(items) < 0.6, 0, rng.integers(0, int(DAYS * 0.85), size=items))

    taste = centres[rng.integers(groups, size=users)] + centres[rng.integers(groups, size=users)]
    taste /= np.linalg.norm(taste, axis=1, keepdims=True)
    level = 0.9 * rng.normal(size=users)
    chance = _zipf(users, 0.6, rng)
    user, second, mood = _visits(sessions, interactions, chance, rng)
    day = second // 86_400
    # Gumbel-max over a popularity-drawn shortlist: taste chooses among what popularity shows.
    shown = rng.choice(items, size=(interactions, 20), p=popularity / popularity.sum())
    affinity = np.einsum("nkd,nd->nk", latent[shown], taste[user])
    score = np.where(
        launch[shown] <= day[:, None], 6.0 * affinity + rng.gumbel(size=shown.shape), -np.inf
    )
    best = score.argmax(axis=1)
    rows = np.arange(interactions)
    item = shown[rows, best]
    keep = np.isfinite(score[rows, best])
    logit = 0.6 + level[user] + mood + quality[item] + 2.0 * affinity[rows, best]
    label = rng.random(interactions) < 1 / (1 + np.exp(-logit))

    ids = np.array([f"i{n:06d}" for n in range(items)])
    table = _catalogue(ids, group, latent, content_noise=content_noise, rng=rng, bend=bend)
    events = pa.table(
        {
            "user_id": pa.array([f"u{n:06d}" for n in user[keep]]),
            "item_id": pa.array(ids[item[keep]]),
            "time": pa.array([START + timedelta(seconds=int(s)) for s in second[keep]], TIME),
            "label": pa.array(label[keep].astype(np.float32)),
        }
    )
    expected = popularity / popularity.sum() * interactions
    return Synthetic(
        dataset_from_tables("synthetic", table, events), Truth(ids, latent, expected, quality)
    )


def _visits(
    sessions: Sessions | None, count: int, chance: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, second since START and mood of `count` events, in sessions or alone, by time."""
    if sessions is None:
        user = rng.choice(len(chance), size=count, p=chance)
        return user, np.sort(rng.integers(0, DAYS, size=count)) * 86_400, np.zeros(count)
    visits = -(-count // sessions.length)
    user = rng.choice(len(chance), size=visits, p=chance)
    start = rng.integers(0, (DAYS - 1) * 86_400, size=visits)
    gaps = 1 + rng.exponential(sessions.gap, size=(visits, sessions.length)).astype(np.int64)
    second = (start[:, None] + gaps.cumsum(axis=1)).ravel()[:count]
    visit = np.repeat(np.arange(visits), sessions.length)[:count]
    mood = rng.normal(0, sessions.mood, size=visits)
    order = np.argsort(second, kind="stable")
    return user[visit][order], second[order], mood[visit][order]


def _catalogue(
    ids: np.ndarray,
    group: np.ndarray,
    latent: np.ndarray,
    *,
    content_noise: float,
    rng: np.random.Generator,
    bend: float,
) -> pa.Table:
    """The item table: a title and a category that name the group,
    and two noisy views of the latent.
    """
    image = _view(latent, 32, 1.5 * content_noise, rng, bend)
    return pa.table(
        {
            "item_id": pa.array(ids),
            "title": pa.array(
                [f"{_word(g)} {_word(7 * g + n % 5)} no. {n}" for n, g in enumerate(group)]
            ),
            "category": pa.array([f"group {g % 8}" for g in group]),
            "vector_text": _lists(_view(latent, 48, content_noise, rng, bend)),
            "vector_image": _lists(image, absent=rng.random(len(ids)) < 0.1),
        }
    )


class NoisyBehavior(NamedTuple):
    """Item vectors whose behaviour has a known noise. reliability: float64 [N], the signal's share
    of a behaviour vector's variance; 0 where cold.
    """

    items: EmbeddingTable
    reliability: np.ndarray


def noisy_behavior(
    made: Synthetic,
    *,
    as_of: datetime,
    noise: float,
    seed: int,
    width: int = 32,
    bend: float = 0.0,
) -> NoisyBehavior:
    """The catalogue's vectors with behaviour as a mean over an item's interactions before `as_of`
    would show its latent.

    Its noise falls with the root of the count, times a factor of the item's own (log-normal, 0.7):
    some items are clicked by mixed crowds, so that counts tell reliability only in part. noise:
    standard deviation at one interaction, in units of the signal's. bend: as in `synthetic`.
    """
    if noise < 0:
        raise InputError(f"noise is {noise}; expected 0 or more")
    rng = np.random.default_rng((seed, 1))
    ids = id_array(made.dataset.items["item_id"])
    rows, _ = find_rows(ids, id_array(made.dataset.before(as_of)["item_id"]))
    count = np.bincount(rows, minlength=len(ids))
    warm = count > 0
    signal = _signal(made.truth.latent, width, rng, bend)
    signal /= signal.std()
    spread = noise / np.sqrt(np.maximum(count, 1)) * np.exp(0.7 * rng.normal(size=len(ids)))
    behavior = np.where(
        warm[:, None], signal + spread[:, None] * rng.normal(size=signal.shape), 0.0
    ).astype(np.float32)
    content = {
        m: vector_matrix(made.dataset.items[f"vector_{m}"], name=m)
        for m in made.dataset.vector_modalities
    }
    vectors, present = ({m: pair[i] for m, pair in content.items()} for i in (0, 1))
    items = EmbeddingTable(
        ids,
        {**vectors, BEHAVIOR: behavior},
        {**present, BEHAVIOR: warm},
        count.astype(np.int64),
        as_of,
    )
    return NoisyBehavior(items, np.where(warm, 1 / (1 + spread**2), 0.0))


def _zipf(n: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    weights = rng.permutation(1.0 / np.arange(1, n + 1) ** exponent)
    return weights / weights.sum()


def _signal(latent: np.ndarray, width: int, rng: np.random.Generator, bend: float) -> np.ndarray:
    """What vectors show of the latent, float64 [N, width]: a map of it, or of 64 bent maps."""
    if bend:
        hidden = latent @ rng.normal(size=(latent.shape[1], 64))
        latent = np.tanh(bend * hidden / hidden.std())
    return latent @ rng.normal(size=(latent.shape[1], width))


def _view(
    latent: np.ndarray, width: int, noise: float, rng: np.random.Generator, bend: float
) -> np.ndarray:
    signal = _signal(latent, width, rng, bend)
    return (signal + noise * signal.std() * rng.normal(size=signal.shape)).astype(np.float32)


def _lists(matrix: np.ndarray, absent: np.ndarray | None = None) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(
        pa.array(matrix.reshape(-1)),
        matrix.shape[1],
        mask=None if absent is None else pa.array(absent),
    )


def _word(n: int) -> str:
    return "".join(
        c + v
        for c, v in zip(
            "bdfgklmnprst"[n % 12] + "lmnrstvz"[n // 12 % 8],
            "aeiou"[n % 5] + "aeiou"[n // 5 % 5],
            strict=True,
        )
    )


def write_truth(truth: Truth, path: Path) -> None:
    """Write the truth beside its dataset, never inside it."""
    np.savez(path, **truth._asdict())
