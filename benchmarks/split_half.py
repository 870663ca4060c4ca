"""Do codes of what one half of the users did tell what the other half did?
Reads: a data set with text or vectors, its text cache. Writes: JSON.

    python benchmarks/split_half.py --data BEAUTY --json docs/evidence/split_half.json

Users are divided at random, and a stock SASRec is trained on each half, as of the end of the
training rows. Each tokenizer is fitted on content and the vectors of one half, or on those that
`--encoder` makes of this half. Its codes (one-hot, times their weights) predict SASRec's vectors of
the other half by ridge regression, in five folds of items: R2 over the items that the other half
knows, in both directions. Differences are paired on
the same items; intervals are 95 % from a bootstrap of items. Codes are also read with equal weights
and with each position's mean weight, so that what is left is the weight that belongs to the item.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _measure import machine
from ground_truth import JUDGES, features, interval

if TYPE_CHECKING:
    from adc_features.codes.embeddings import EmbeddingTable
    from adc_features.codes.sids import SidTable
    from adc_features.data.dataset import Dataset

TOKENIZERS = ("adc", "rq_kmeans", "das", *JUDGES)
WEIGHTED = ("adc", *JUDGES)
FOLDS = 5
GROUPS = 20
"""Of items by their number of events, for what vectors and counts tell together."""
STOCK = "sasrec"
"""The encoder of the vectors that are predicted, whichever is coded."""
DIRECTIONS = ("a_to_b", "b_to_a")


def halves(dataset: Dataset, seed: int, encoders: list[str]) -> dict[str, list[EmbeddingTable]]:
    """The catalogue's content with the behaviour of each half of the users, by encoder."""
    from adc_features.codes.embeddings import EmbeddingTable, id_array, vector_matrix
    from adc_features.codes.spec import BEHAVIOR
    from adc_features.encoders.behavior import ENCODERS, RECIPES, behavior_series
    from adc_features.encoders.text import (
        OFFLINE_MODEL,
        cache_directory,
        item_texts,
        text_vectors,
    )

    ids, as_of = id_array(dataset.items["item_id"]), dataset.windows.split(final=False).train_end
    pairs = {
        view: text_vectors(
            item_texts(dataset.items, columns), model=OFFLINE_MODEL, cache=cache_directory()
        )
        for view, columns in dataset.text_views.items()
    } | {m: vector_matrix(dataset.items[f"vector_{m}"], name=m) for m in dataset.vector_modalities}
    log = dataset.before(as_of)
    users, user = np.unique(log["user_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    first = np.random.default_rng((seed, 9)).permutation(len(users)) < len(users) // 2
    tables: dict[str, list[EmbeddingTable]] = {name: [] for name in encoders}
    for name, of_halves in tables.items():
        for number, mask in enumerate((first[user], ~first[user])):
            [made] = behavior_series(
                log.filter(mask),
                ids,
                cutoffs=[as_of],
                settings=RECIPES[ENCODERS[name].recipe](),
                seed=seed + number,
                content=[pairs] if ENCODERS[name].reads_content else None,
            )
            of_halves.append(
                EmbeddingTable(
                    ids,
                    {m: v for m, (v, _) in pairs.items()} | {BEHAVIOR: made.vectors},
                    {m: p for m, (_, p) in pairs.items()} | {BEHAVIOR: made.present},
                    made.interaction_count.astype(np.int64),
                    as_of,
                )
            )
            print(f"encoder={name} half={number}", file=sys.stderr)
    return tables


def left_over(inputs: np.ndarray, target: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Squared error of each item's vector, float64 [N], by a regression that has not seen it."""
    from sklearn.linear_model import RidgeCV

    out = np.zeros(len(target))
    for f in range(FOLDS):
        seen, asked = fold != f, fold == f
        model = RidgeCV(np.logspace(0, 4, 9)).fit(inputs[seen], target[seen])
        out[asked] = np.square(target[asked] - model.predict(inputs[asked])).sum(1)
    return out


def counted(vectors: np.ndarray, source: EmbeddingTable) -> np.ndarray:
    """All that a tokenizer is given, [N, 2 D + 1 + groups]: vectors, how many events an item has,
    in groups and as a logarithm, and the products of that with the vectors.
    """
    known = np.log1p(source.interaction_count)
    groups = known[:, None] >= np.unique(np.quantile(known, np.linspace(0, 1, GROUPS)))
    scale = (known / max(known.max(), 1e-9))[:, None]
    return np.concatenate([vectors, vectors * scale, scale, groups], axis=1)


def readings(name: str, sids: SidTable) -> dict[str, np.ndarray]:
    """Weights float32 [N, L] under which the codes of a tokenizer are read, by name."""
    known = sids.sid >= 0
    if name not in WEIGHTED:
        return {name: sids.sid_weight}
    mean = np.where(known, sids.sid_weight, 0).sum(0) / known.sum(0)
    return {
        name: sids.sid_weight,
        f"{name}_equal_weights": known.astype(np.float32),
        f"{name}_mean_weights": (known * mean).astype(np.float32),
    }


def direction(
    source: EmbeddingTable, other: EmbeddingTable, names: list[str], *, size: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Squared errors by reading of the items that `other` knows, and CPU seconds of each fit."""
    from adc_features.codes.spec import BEHAVIOR, SidSpec
    from adc_features.tokenizer.encode import encode
    from adc_features.tokenizer.fit import RECIPES, fit

    asked = other.present[BEHAVIOR]
    target = other.vectors[BEHAVIOR][asked].astype(np.float64)
    target -= target.mean(0)
    fold = np.random.default_rng((seed, 10)).permutation(len(target)) % FOLDS
    contents = [m for m in source.vectors if m != BEHAVIOR]
    content = np.concatenate([source.vectors[m] for m in contents], axis=1)
    vectors = np.concatenate([content, source.vectors[BEHAVIOR]], axis=1)
    errors = {
        "mean": np.square(target).sum(1),
        "content": left_over(content[asked], target, fold),
        "raw_vectors": left_over(vectors[asked], target, fold),
        "raw_vectors_and_counts": left_over(counted(vectors, source)[asked], target, fold),
    }
    spent = {}
    spec = SidSpec(content=dict.fromkeys(contents, 1), codebook_size=size)
    for name in names:
        started = time.process_time()
        with tempfile.TemporaryDirectory() as scratch:
            generation = fit(
                [source],
                spec,
                settings=RECIPES[name](),
                generation_id="g",
                directory=Path(scratch) / "g",
                seed=seed,
            )
        spent[name] = time.process_time() - started
        sids = encode(source, generation)
        for reading, weight in readings(name, sids).items():
            inputs = features(sids.sid[asked], weight[asked], size)
            errors[reading] = left_over(inputs, target, fold)
        print(f"tokenizer={name} fit_cpu_s={spent[name]:.1f}", file=sys.stderr)
    return errors, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a directory, or `synthetic`")
    parser.add_argument("--tokenizers", default=",".join(TOKENIZERS))
    parser.add_argument("--encoder", default=STOCK, help="of the behaviour that is coded")
    parser.add_argument("--codebook-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()

    import torch

    from adc_features.pipeline.source import load_source

    torch.set_num_threads(1)
    names = asked.tokenizers.split(",")
    encoders = sorted({STOCK, asked.encoder})
    made = halves(load_source(asked.data, seed=asked.seed), asked.seed, encoders)
    (a, b), (of_a, of_b) = made[STOCK], made[asked.encoder]
    rng = np.random.default_rng(0)
    report: dict[str, Any] = {}
    paired: dict[str, dict[str, Any]] = {}
    for where, (source, other) in zip(DIRECTIONS, ((of_a, b), (of_b, a)), strict=True):
        errors, spent = direction(source, other, names, size=asked.codebook_size, seed=asked.seed)
        base = errors.pop("mean")
        for name, e in errors.items():
            report.setdefault(name, {})[where] = interval(base - e, base, rng)
        for name, seconds in spent.items():
            report[name].setdefault("fit_cpu_seconds", {})[where] = seconds
        for judge in (j for j in JUDGES if j in names):
            for name, e in errors.items():
                if name != judge:
                    pair = paired.setdefault(f"{judge}_minus_{name}", {})
                    pair[where] = interval(e - errors[judge], base, rng)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    facts = {
        "command": f"python benchmarks/split_half.py --data {Path(asked.data).name}"
        f" --tokenizers {asked.tokenizers} --encoder {asked.encoder}"
        f" --codebook-size {asked.codebook_size} --seed {asked.seed}",
        "commit": commit,
        "machine": machine(),
        "items": {
            "a_to_b": int(b.present["behavior"].sum()),
            "b_to_a": int(a.present["behavior"].sum()),
        },
    }
    text = json.dumps({**facts, **report, "paired": paired}, indent=2)
    if asked.json == "-":
        print(text)
    else:
        Path(asked.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
