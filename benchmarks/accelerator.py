"""How fast is every fit on the CPU and, where there is one, on a GPU, and is it as good?
Reads: nothing. Writes: JSON.

    python benchmarks/accelerator.py --json FILE

Generated data, the same settings and seed on both: SASRec against all items, against a sample and
with content, ADC-SID, its encoding, a network of a ranker from memory and from files, its trees
(where XGBoost is built for the GPU) and a generator. A slice of each, so that all of it ends within
four minutes; what is extrapolated to a whole fit says so. The first step on a GPU, which loads its
kernels, is made beforehand. Without a GPU it measures the CPU and says that there is no
accelerator. `--scale 0.1` is a tenth of the rows.

`large_catalogue` are steps of SASRec's sampled softmax over an item table of 48M x 64, where there
is a GPU with the memory; on the CPU a hundredth of it.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import xgboost as xgb
from _measure import measured, write_report

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.devices import resolve_device
from adc_features.encoders.behavior import behavior_series, full_softmax
from adc_features.encoders.behavior_settings import BehaviorSettings, ContentSettings
from adc_features.encoders.sampled import Negatives, Sampled
from adc_features.encoders.sasrec import SASRec, Sequences, packed_batches
from adc_features.encoders.sasrec_training import _OfSample
from adc_features.generator.catalogue import Coded
from adc_features.generator.generator import GeneratorSettings
from adc_features.inputs.declaration import Ranker, Task
from adc_features.inputs.encoded import Block, Encoded, InputLayout, Layout, Lookup, SlotLayout
from adc_features.ranking.boosted_settings import BoostedSettings
from adc_features.ranking.multitask.boosted_matrix import BoostedColumns
from adc_features.ranking.multitask.shape import NetworkShape
from adc_features.ranks import ALONE
from adc_features.tokenizer.encode import encode
from adc_features.tokenizer.fit import adc, fit
from training.ranker.fit_boosted import fit_boosted
from training.ranker.fit_network import FitSettings, fit_network
from training.ranker.labelled import Labelled
from training.ranker.row_files import RowFiles
from training.retrieval.generator_training import train_generator

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLUSTERS, EPOCHS = 20, 3
STEPS, SLICE, TREES = 150, 8, 20
"""Of the tokenizer, of the 600 that a whole fit takes; of the large catalogue; of a ranker."""


class Fit(NamedTuple):
    """run(device): rows that were worked on, what was made and how good it is. tolerance: how far
    apart the qualities of two devices may be.
    """

    run: Callable[[str], tuple[int, Any, float]]
    quality: str
    tolerance: float


def sasrec(scale: float, loss: Literal["full", "sampled", "content"]) -> Fit:
    """Users who stay within a cluster of items; three epochs."""
    rng, users, items, length = np.random.default_rng(0), int(10_000 * scale), 2_000, 12
    cluster = np.arange(items) % CLUSTERS
    own = rng.integers(0, CLUSTERS, users)
    met = rng.integers(0, items // CLUSTERS, (users, length)) * CLUSTERS + own[:, None]
    days = np.tile(np.arange(length), users)
    log = pa.table(
        {
            "user_id": np.repeat(np.arange(users), length),
            "item_id": met.ravel(),
            "time": pa.array(
                np.datetime64("2025-01-01", "us") + days.astype("timedelta64[D]"),
                pa.timestamp("us", tz="UTC"),
            ),
        }
    )
    settings: BehaviorSettings | ContentSettings
    settings = whole = replace(full_softmax(), epochs=EPOCHS, batch=1024)
    content = None
    if loss == "sampled":
        settings = replace(whole, loss=Sampled(512))
    if loss == "content":
        settings = ContentSettings(whole)
        drawn = rng.normal(size=(items, 64)).astype(np.float32)
        content = [{"title": (drawn, np.ones(items, bool))}]

    def run(device: str) -> tuple[int, Any, float]:
        [made] = behavior_series(
            log,
            np.arange(items),
            cutoffs=[NOW],
            settings=settings,
            seed=0,
            content=content,
            device=device,
        )
        unit = made.vectors / np.maximum(np.linalg.norm(made.vectors, axis=1, keepdims=True), 1e-9)
        seen = np.flatnonzero(made.present)[:1000]
        cosine = unit[seen] @ unit.T
        cosine[np.arange(len(seen)), seen] = -1
        same = cluster[cosine.argmax(1)] == cluster[seen]
        return EPOCHS * users * length, made, float(same.mean())

    return Fit(run, "share of items whose nearest item is of the same cluster", 0.05)


def large_catalogue(device: str) -> dict[str, Any]:
    """Steps of sampled softmax over a table that a full softmax has no room for."""
    place = resolve_device(device)
    whole = place.type == "cuda" and torch.cuda.mem_get_info(place)[1] > 60 * 2**30
    items, rows = (48_000_000, 1_024) if whole else (480_000, 32)
    loss = Sampled(8_192 if whole else 512)
    settings = replace(full_softmax(), loss=loss, batch=rows * full_softmax().length)
    rng = np.random.default_rng(0)
    users = rows * (SLICE + 1)
    events = rng.integers(0, items, users * (settings.length + 1))
    sequences = Sequences(events, np.cumsum(np.full(users, settings.length + 1)))
    with place:
        model = SASRec(
            items,
            dim=settings.dim,
            blocks=settings.blocks,
            length=settings.length,
            dropout=settings.dropout,
            init_std=settings.init_std,
        )
    descent = _OfSample(
        model,
        settings,
        torch.zeros(items, device=place),
        ALONE,
        steps=SLICE,
        negatives=Negatives(loss, np.ones(items, np.int64)),
        rng=rng,
    )
    first, *others = packed_batches(sequences, length=settings.length, rows=rows, rng=rng)
    descent.step(first)  # loads kernels

    def steps() -> int:
        lost = [descent.step(batch) for batch in others]
        torch.stack(lost).tolist()  # waits for a GPU
        return sum(int((batch.targets >= 0).sum()) for batch in others)

    told = {"items": items, "positions_a_step": settings.batch, **measured(steps)}
    if place.type == "cuda":
        told["peak_gpu_bytes"] = torch.cuda.max_memory_allocated(place)
    return told


def generator(scale: float) -> Fit:
    """Items of eight codes a position, met in the order of their numbers; one epoch."""
    rng, users, items, length = np.random.default_rng(3), int(1_500 * scale), 2_000, 12
    met = (rng.integers(0, items, users)[:, None] + np.arange(length)) % items
    sequences = Sequences(met.ravel(), np.cumsum(np.full(users, length)))
    coded = Coded(rng.integers(0, 64, (items, 4)), np.ones((items, 4), np.float32), 64)
    settings = replace(GeneratorSettings(), epochs=1)

    def run(device: str) -> tuple[int, Any, float]:
        made, curve = train_generator(
            sequences, coded, items=items, settings=settings, seed=0, device=device
        )
        return sequences.transitions, made, curve[-1]

    return Fit(run, "mean loss of the epoch", 0.1)


def catalogue(items: int) -> EmbeddingTable:
    """Items of which behaviour and content share a taste."""
    rng = np.random.default_rng(1)
    taste = rng.normal(size=(items, 16)).astype(np.float32)
    vectors = {
        m: taste @ rng.normal(size=(16, width)).astype(np.float32)
        + rng.normal(size=(items, width)).astype(np.float32)
        for m, width in (("title", 256), (BEHAVIOR, 64))
    }
    count = np.sort(rng.geometric(0.05, items)).astype(np.int64)
    present = {m: np.ones(items, bool) for m in vectors}
    return EmbeddingTable(np.arange(items), vectors, present, count, NOW - timedelta(days=1))


def tokenizer(scale: float) -> Fit:
    """ADC-SID at its own widths and batch; STEPS steps."""
    table = catalogue(int(40_000 * scale))
    spec = SidSpec(content={"title": 1}, shared=1, behavior=3, codebook_size=100)
    settings = replace(adc(), steps=STEPS, min_utilisation=0.0)

    def run(device: str) -> tuple[int, Any, float]:
        with tempfile.TemporaryDirectory() as folder:
            generation = fit(
                [table],
                spec,
                settings=settings,
                generation_id="g1",
                directory=Path(folder) / "g1",
                seed=0,
                device=device,
            )
        unexplained = generation.quality["reconstruction_1_minus_r2"]["all"]
        return STEPS * settings.batch, generation, unexplained

    return Fit(run, "1 - R2 of the vectors as decoded from codes", 0.02)


def encoding(scale: float, generation: Generation) -> Fit:
    """Codes and weights of a catalogue; the same generation everywhere."""
    table = catalogue(int(100_000 * scale))
    first: list[np.ndarray] = []

    def run(device: str) -> tuple[int, Any, float]:
        made = encode(table, generation, device=device)
        first.append(made.sid)
        return len(table), made, float((made.sid == first[0]).mean())

    return Fit(run, "share of codes equal to those of the CPU", 0.001)


def ranker(scale: float, model: Literal["network", "files", "trees"]) -> Fit:
    """Eight categories and eight numbers; one epoch of a network, or some trees."""
    rng, rows, values = np.random.default_rng(2), int(150_000 * scale), 5_000
    inputs = {f"c{n}": InputLayout(slots=(SlotLayout("lookup", (f"c{n}",)),)) for n in range(8)}
    inputs["numbers"] = InputLayout(tuple(f"x{n}" for n in range(8)))
    layout = Layout(inputs, {f"c{n}": values for n in range(8)})
    shape = NetworkShape.of(layout, Ranker("bench", [Task("click")]))
    liking = rng.normal(size=(8, values))

    def drawn(count: int) -> Labelled:
        ids = rng.integers(0, values, (8, count))
        numbers = rng.normal(size=(count, 8)).astype(np.float32)
        blocks = {
            f"c{n}": Block(np.empty((count, 0), np.float32), (Lookup(ids[n]),)) for n in range(8)
        }
        blocks["numbers"] = Block(numbers, ())
        odds = liking[np.arange(8)[:, None], ids].sum(0) / 3 + numbers[:, 0]
        label = (rng.random(count) < 1 / (1 + np.exp(-odds))).astype(np.float32)[None]
        return Labelled(Encoded(blocks, count), label, np.ones((1, count), bool), np.ones(count))

    learned, held = drawn(rows), drawn(20_000)
    settings = FitSettings(batch=4096, max_epochs=1)

    def run(device: str) -> tuple[int, Any, float]:
        options: dict[str, Any] = {"shape": shape, "settings": settings, "seed": 0}
        options |= {"holdout": held, "device": device}
        if model == "network":
            made, curve = fit_network(*learned[:4], **options)
        else:
            with tempfile.TemporaryDirectory() as folder:
                parts = np.array_split(np.arange(rows), 8)
                pieces = (learned.in_memory.take(part) for part in parts)
                files = RowFiles.write(Path(folder) / "rows", pieces, shape, buffer_rows=rows // 3)
                made, curve = fit_network(files, *learned[1:4], **options)
        return rows, made, float(curve[-1].holdout or 0)

    def grown(device: str) -> tuple[int, Any, float]:
        now = np.datetime64("2026-01-01", "us") + np.arange(rows).astype("timedelta64[s]")
        made, curve = fit_boosted(
            learned.in_memory,
            *learned[1:4],
            tasks=["click"],
            columns=BoostedColumns.of(layout, {}),
            settings=BoostedSettings(),
            seed=0,
            rounds=TREES,
            holdout=held,
            times=now,
            known=now[None] + np.timedelta64(1, "s"),
            device=device,
        )
        return TREES * rows, made, float(curve[-1].holdout or 0)

    told = "log loss of held-out rows"
    return Fit(grown if model == "trees" else run, told, 0.01)


def compared(one: Fit, devices: list[str]) -> tuple[dict[str, Any], Any]:
    """Rates and quality by device, whether they agree, and what the CPU made."""
    told: dict[str, Any] = {"quality": one.quality, "tolerance": one.tolerance}
    kept: dict[str, tuple[Any, float]] = {}
    for device in devices:

        def work(device: str = device) -> int:
            rows, made, quality = one.run(device)
            kept[device] = made, quality
            return rows

        if device != "cpu":
            work()  # loads kernels
            torch.cuda.synchronize()
        told[device] = {**measured(work), "quality": kept[device][1]}
    if len(devices) > 1:
        away = abs(kept["cpu"][1] - kept[devices[1]][1])
        told["same_quality"] = away <= one.tolerance
        told["times_as_fast"] = told[devices[1]]["rows_per_s"] / told["cpu"]["rows_per_s"]
    return told, kept["cpu"][0]


def report(scale: float) -> Mapping[str, Any]:
    place = resolve_device("auto")
    devices = ["cpu"] if place.type == "cpu" else ["cpu", place.type]
    name = "no accelerator" if place.type == "cpu" else torch.cuda.get_device_name(place)
    fits: dict[str, Any] = {}
    for loss in ("full", "sampled", "content"):
        fits[f"sasrec_{loss}"], _ = compared(sasrec(scale, loss), devices)
    fits["tokenizer"], made = compared(tokenizer(scale), devices)
    fits["encode"], _ = compared(encoding(scale, made), devices)
    for model in ("network", "files"):
        fits[f"ranker_{model}"], _ = compared(ranker(scale, model), devices)
    built = xgb.build_info().get("USE_CUDA", False)
    fits["ranker_trees"], _ = compared(ranker(scale, "trees"), devices if built else ["cpu"])
    fits["generator"], _ = compared(generator(scale), devices)
    for device in devices:
        told = fits["tokenizer"][device]
        told["whole_fit_s_extrapolated"] = told["wall_s"] * adc().steps / STEPS
    large = {device: large_catalogue(device) for device in devices}
    facts = {"accelerator": name, "torch": torch.__version__, "scale": scale}
    return {**facts, "systems": fits, "large_catalogue": large}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="Share of the rows.")
    parser.add_argument("--json", default="-", metavar="FILE|-")
    arguments = parser.parse_args()
    told = report(arguments.scale)
    ratios = {f: s["times_as_fast"] for f, s in told["systems"].items() if "times_as_fast" in s}
    write_report(arguments.json, ratios=ratios, **told)


if __name__ == "__main__":
    main()
