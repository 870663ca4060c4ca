"""Small fits of every kind, for tests of where and how they are computed. Reads: nothing. Writes:
what was learned.
"""

import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from encoded_rows import LAYOUT, RANKER, rows_of

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.encoders.behavior import behavior_series, full_softmax
from adc_features.encoders.behavior_settings import BehaviorSettings, ContentSettings
from adc_features.encoders.sampled import Sampled
from adc_features.encoders.sasrec import Sequences
from adc_features.generator.catalogue import Coded
from adc_features.generator.generator import Generator, GeneratorSettings
from adc_features.inputs.encoded import Encoded
from adc_features.ranking.multitask.shape import NetworkSettings, NetworkShape
from adc_features.tokenizer.fit import adc, fit
from training.ranker.fit_network import FitSettings, fit_network
from training.ranker.labelled import Labelled
from training.ranker.row_files import RowFiles
from training.retrieval.generator_training import train_generator


def vectors(settings: BehaviorSettings | ContentSettings, device: str) -> list[np.ndarray]:
    """Behaviour vectors as of two times."""
    rng = np.random.default_rng(0)
    items = np.array([f"i{k:02d}" for k in range(30)])
    first, length = rng.integers(0, 30, 40), rng.integers(2, 9, 40)
    rows = [(f"u{u}", items[(first[u] + s) % 30], s) for u in range(40) for s in range(length[u])]
    user, item, day = zip(*rows, strict=True)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    times = pa.array([start + timedelta(days=d) for d in day], pa.timestamp("us", tz="UTC"))
    content = {"title": (rng.normal(size=(30, 6)).astype(np.float32), np.ones(30, bool))}
    made = behavior_series(
        pa.table({"user_id": user, "item_id": item, "time": times}),
        items,
        cutoffs=[start + timedelta(days=4), start + timedelta(days=9)],
        settings=settings,
        seed=0,
        content=[content] * 2 if isinstance(settings, ContentSettings) else None,
        device=device,
    )
    return [one.vectors for one in made]


SMALL = replace(full_softmax(), dim=8, length=8, batch=64, epochs=2, continued_epochs=1)


ENCODERS = {
    "full": SMALL,
    "in_batch": replace(SMALL, loss="in_batch"),
    "sampled": replace(SMALL, loss=Sampled(negatives=12)),
    "content": ContentSettings(SMALL, content_width=4),
}


def tables() -> list[EmbeddingTable]:
    """Items as of two days, of which some lack behaviour or a title."""
    rng = np.random.default_rng(0)
    count = np.sort(rng.geometric(0.05, 300)).astype(np.int64)
    taste = rng.normal(size=(300, 4))
    found = {m: (taste @ rng.normal(size=(4, 12))).astype(np.float32) for m in ("title", BEHAVIOR)}
    found = {m: v + rng.normal(0, 0.2, v.shape).astype(np.float32) for m, v in found.items()}
    unit = found[BEHAVIOR] / np.linalg.norm(found[BEHAVIOR], axis=1, keepdims=True)
    found[BEHAVIOR] = (unit * np.log1p(count)[:, None]).astype(np.float32)
    there = {m: rng.random(300) < 0.9 for m in found}
    found = {m: np.where(there[m][:, None], v, np.float32(0)) for m, v in found.items()}
    count = np.where(there[BEHAVIOR], count, 0)
    return [
        EmbeddingTable(
            np.arange(300),
            {**found, BEHAVIOR: found[BEHAVIOR] * np.float32(1 + day / 10)},
            there,
            count,
            datetime(2024, 1, 1 + day, tzinfo=UTC),
        )
        for day in (0, 1)
    ]


def fitted_tokenizer(changes: dict[str, Any], device: str) -> Generation:
    """ADC-SID after a few steps."""
    quick = {"steps": 40, "warmup_steps": 10, "batch": 63, "revive_every": 7}
    quick |= {"hidden": 16, "latent": 16, "aligned": 16, "min_utilisation": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        return fit(
            tables(),
            SidSpec(content={"title": 1}, shared=1, behavior=3, codebook_size=8),
            settings=replace(adc(), **quick | changes),
            generation_id="g1",
            directory=Path(folder) / "g1",
            seed=1,
            device=device,
        )


PENALTY = {"sparsity": "penalty", "gate_scale": "sigmoid"}
TERMS = {"orthogonality_weight": 0.1, "auxiliary_weight": 0.1}


TOKENIZERS = {"threshold": {}, "penalty": PENALTY | TERMS}


def fitted_network(
    kind: str, device: str, *, files: Path | None = None, piece: int = 100, buffer: int = 400
) -> tuple[dict[str, np.ndarray], list[Any]]:
    """A network on rows of every kind of input; 385 rows, so that a last batch has one. files:
    where rows are written in pieces, unless they are there, learned from and held out; None for
    rows in memory.
    """
    rng, count, more = np.random.default_rng(0), 385, {}
    shape = NetworkShape.of(LAYOUT, RANKER)
    if kind == "listwise":
        shape, more = replace(shape, listwise=0.5), {"groups": np.arange(count) // 4}
    if kind == "level":
        ranker = replace(RANKER, domain="brand", gates=["segment"])
        shape = NetworkShape.of(LAYOUT, ranker, settings=NetworkSettings(networks=2))
        shape = replace(shape, level=("position",), settled=("position",))
        more = {"users": np.arange(count) // 9}

    def drawn(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = rng.integers(0, 2, (2, rows)).astype(np.float32)
        return labels, np.ones((2, rows), bool), rng.random(rows).astype(np.float32) + 0.5

    def held(name: str, rows: Encoded) -> Encoded | RowFiles:
        if files is None:
            return rows
        if (files / name).is_dir():
            return RowFiles.open(files / name, buffer_rows=buffer)
        parts = np.split(np.arange(len(rows)), range(piece, len(rows), piece))
        pieces = (rows.take(part) for part in parts)
        return RowFiles.write(files / name, pieces, shape, buffer_rows=buffer)

    return fit_network(
        held("learned", rows_of(LAYOUT, count)),
        *drawn(count),
        shape=shape,
        settings=FitSettings(batch=64, max_epochs=2),
        seed=0,
        holdout=Labelled(held("held", rows_of(LAYOUT, 200, seed=5)), *drawn(200)),
        device=device,
        **more,
    )


GENERATORS: dict[str, dict[str, Any]] = {
    "catalogue": {"loss": "catalogue", "items": True},
    "positions": {"loss": "positions"},
}


def fitted_generator(changes: dict[str, Any], device: str) -> tuple[Generator, list[float]]:
    """A generator of 50 items after an epoch, whose last batch has one row, and its losses."""
    rng = np.random.default_rng(0)
    sequences = Sequences(rng.integers(0, 50, 400), np.cumsum(np.full(40, 10)))
    coded = Coded(rng.integers(-1, 8, (50, 3)), rng.random((50, 3)).astype(np.float32), 8)
    small = GeneratorSettings(**changes, dim=16, length=8, batch=32, epochs=1)
    return train_generator(sequences, coded, items=50, settings=small, seed=0, device=device)
