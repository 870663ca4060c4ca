"""A repository as a run leaves it, with a small fitted tokenizer: new items come to it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from adc_features import store
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation, open_generation
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.live.items import Items
from adc_features.live.items_encoding import open_encoder

SPEC = SidSpec(content={"title": 1, "image": 1}, shared=1, behavior=1, codebook_size=8)
WIDTHS = {"title": 6, "image": 4, BEHAVIOR: 4}
CONTENT = [1, 2]
"""The positions of codes that are of content alone."""
N = 200
START = datetime(2024, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that stands where it was put."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def vectors(rows: int, *, seed: int) -> dict[str, np.ndarray]:
    """Of items of four kinds."""
    chance, ways = np.random.default_rng(seed), np.random.default_rng(99)
    kinds = 3 * np.eye(4)[chance.integers(0, 4, rows)] + chance.normal(0, 0.5, (rows, 4))
    return {m: (kinds @ ways.normal(size=(4, w))).astype(np.float32) for m, w in WIDTHS.items()}


def table(
    ids: list[str], of: dict[str, np.ndarray], as_of: datetime, *, cold: int
) -> EmbeddingTable:
    """Items of which the last `cold` ones have no behaviour."""
    n = len(ids)
    present = {m: np.ones(n, bool) for m in of}
    present[BEHAVIOR] = np.arange(n) < n - cold
    behavior = np.where(present[BEHAVIOR][:, None], of[BEHAVIOR], 0).astype(np.float32)
    count = np.where(present[BEHAVIOR], 5 + np.arange(n), 0).astype(np.int64)
    return EmbeddingTable(np.array(ids), {**of, BEHAVIOR: behavior}, present, count, as_of)


def catalogue(as_of: datetime) -> EmbeddingTable:
    """The items from the start."""
    of = vectors(N, seed=0)
    unit = of[BEHAVIOR] / np.linalg.norm(of[BEHAVIOR], axis=1, keepdims=True)
    of[BEHAVIOR] = (unit * np.log1p(5 + np.arange(N))[:, None]).astype(np.float32)
    return table([f"i{n:03d}" for n in range(N)], of, as_of, cold=0)


def make_run(directory: Path) -> Path:
    """`generation/generation` and `feature_repo` of a directory, with codes as of day 0."""
    from adc_features.tokenizer.encode import encode
    from adc_features.tokenizer.fit import adc, fit

    small = {"hidden": 16, "latent": 16, "aligned": 16, "min_utilisation": 0.0, "batch": 64}
    generation = fit(
        [catalogue(START)],
        SPEC,
        settings=replace(adc(), steps=60, warmup_steps=10, **small),
        generation_id="g1",
        directory=directory / "generation" / "generation",
        seed=0,
    )
    repo = directory / "feature_repo"
    store.create_repository(repo, project="items")
    publish(repo, generation, encode(catalogue(START), generation), START)
    store.apply(repo)
    return repo


def publish(repo: Path, generation: Generation, made: SidTable, servable_at: datetime) -> None:
    """As a run publishes a snapshot."""
    if generation.id in {g.id for g in store.repository.live_generations(repo)}:
        store.publish_changes(
            repo, generation, made, servable_at=servable_at, computed_at=servable_at
        )
    else:
        store.publish(repo, generation, [made], servable_at=[servable_at], computed_at=servable_at)


def frozen(repo: Path) -> Generation:
    return open_generation(repo.parent / "generation" / "generation")


def opened(repo: Path, clock: Clock) -> Items:
    return Items(repo, open_encoder(repo), clock=clock)


def sent(ids: list[str], of: dict[str, np.ndarray]) -> list[dict]:
    """The items as a client sends them."""
    return [
        {"id": one, "vectors": {m: of[m][row].tolist() for m in ("title", "image")}}
        for row, one in enumerate(ids)
    ]
