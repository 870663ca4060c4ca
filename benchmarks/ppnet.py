"""What does PPNet's gate cost, beside a plain MLP and beside FuxiCTR's PPNet? Reads: nothing.
Writes: JSON.

    python benchmarks/ppnet.py --json - --fuxictr-python fux/bin/python \\
        --fuxictr-model FuxiCTR/model_zoo/PEPNet/src/PPNet.py

Four id features, embedding 16, batch 4,096, hidden (256, 128), Adam, one thread, the same tensors
for all; prior: the first two ids. FuxiCTR 2.3.10 needs an environment of its own (polars < 2), and
its PPNet class is a file of its repository, not of its package; without both options only our two
networks are measured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

VOCABULARY = (22_363, 12_101, 2_075, 245)
EMBEDDING, HIDDEN, BATCH, GATE = 16, (256, 128), 4_096, 16
BLOCKS, STEPS = 6, 40


def batches() -> list:
    """(ids int64 [4096, 4], label float32 [4096]) a step, popular ids often."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    torch.set_num_threads(1)
    made = []
    for _ in range(STEPS):
        ids = np.stack(
            [(size * rng.random(BATCH) ** 3).astype(np.int64) for size in VOCABULARY], axis=1
        )
        made.append(
            (torch.from_numpy(ids), torch.from_numpy((rng.random(BATCH) < 0.78).astype(np.float32)))
        )
    return made


def timed(step: Callable) -> dict[str, float]:
    """The fastest of BLOCKS blocks of steps:
    neighbours on the machine can only slow a block down.
    """
    from _measure import peak_rss_bytes

    data = batches()
    blocks = []
    for _ in range(1 + BLOCKS):  # the first warms up
        wall, cpu = time.perf_counter(), time.process_time()
        for ids, label in data:
            step(ids, label)
        blocks.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = min(blocks[1:])
    return {
        "cpu_s": cpu,
        "wall_s": wall,
        "rows_per_cpu_s": len(data) * BATCH / cpu,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def torch_step(model, forward: Callable) -> Callable:
    """Our training step; forward: ids [B, 4] -> logits [B]."""
    import torch

    from training.ppnet import descend

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    return lambda ids, label: descend(
        optimizer, torch.nn.functional.binary_cross_entropy_with_logits(forward(ids), label)
    )


def ours() -> dict[str, float]:
    import torch

    from adc_features.ranking.ppnet.network import Batch, PPNet

    model = PPNet(VOCABULARY, prior_ids=2, embedding=EMBEDDING, hidden=HIDDEN, gate=GATE)
    none = torch.zeros(BATCH, 0)
    return timed(torch_step(model, lambda ids: model(Batch(ids, none, none, none, none, none))))


def plain_mlp() -> dict[str, float]:
    from itertools import pairwise

    from torch import nn

    from adc_features.ranking.ppnet.network import Tables

    widths = [EMBEDDING * len(VOCABULARY), *HIDDEN]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(
        Tables(VOCABULARY, EMBEDDING), nn.Flatten(), *layers, nn.Linear(widths[-1], 1)
    )
    return timed(torch_step(model, lambda ids: model(ids).squeeze(1)))


def fuxictr(model_file: str) -> dict[str, float]:
    """FuxiCTR's class and its own train_step. Runs in FuxiCTR's interpreter."""
    import importlib.util

    from fuxictr.features import FeatureMap

    spec = importlib.util.spec_from_file_location("fuxictr_ppnet", model_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = [f"f{n}" for n in range(len(VOCABULARY))]
    features = FeatureMap("bench", tempfile.gettempdir())
    features.features.update(
        {
            name: {"source": "", "type": "categorical", "vocab_size": size}
            for name, size in zip(names, VOCABULARY, strict=True)
        }
    )
    features.labels, features.num_fields, features.default_emb_dim = (
        ["label"],
        len(names),
        EMBEDDING,
    )
    model = module.PPNet(
        features,
        embedding_dim=EMBEDDING,
        gate_emb_dim=EMBEDDING,
        gate_priors=names[:2],
        hidden_units=list(HIDDEN),
        optimizer="adam",
        loss="binary_crossentropy",
        verbose=0,
        model_root=tempfile.mkdtemp(),
        metrics=["AUC"],
    )
    model._max_gradient_norm = 10.0
    model.train()
    return timed(
        lambda ids, label: model.train_step(
            {**{name: ids[:, n] for n, name in enumerate(names)}, "label": label}
        )
    )


SYSTEMS = {"ppnet": ours, "plain_mlp": plain_mlp}


def apart(python: str, *arguments: str) -> dict[str, float]:
    """This file again, in a fresh process of an interpreter, for one system."""
    done = subprocess.run(
        [python, __file__, *arguments], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    parser.add_argument("--fuxictr-python", help="an interpreter that has fuxictr 2.3.10")
    parser.add_argument(
        "--fuxictr-model",
        type=lambda p: str(Path(p).resolve()),
        help="model_zoo/PEPNet/src/PPNet.py of its repository",
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=3,
        help="measure each so often, in turn; the least CPU time counts",
    )
    parser.add_argument("--only", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        print(
            json.dumps(
                fuxictr(asked.fuxictr_model)
                if asked.only == "fuxictr_ppnet"
                else SYSTEMS[asked.only]()
            )
        )
        return
    from _measure import write_report

    commands = {name: (sys.executable, "--only", name) for name in SYSTEMS}
    if asked.fuxictr_python and asked.fuxictr_model:
        commands["fuxictr_ppnet"] = (
            asked.fuxictr_python,
            "--only",
            "fuxictr_ppnet",
            "--fuxictr-model",
            asked.fuxictr_model,
        )
    runs = [
        {name: apart(*command) for name, command in commands.items()} for _ in range(asked.repeat)
    ]
    systems = {
        name: min((run[name] for run in runs), key=lambda m: m["cpu_s"]) for name in commands
    }
    rate = {name: measured["rows_per_cpu_s"] for name, measured in systems.items()}
    ratios = {"ppnet_cost_over_plain_mlp": rate["plain_mlp"] / rate["ppnet"]}
    if "fuxictr_ppnet" in rate:
        ratios["ppnet_rows_per_cpu_s_over_fuxictr"] = rate["ppnet"] / rate["fuxictr_ppnet"]
    shape = {
        "vocabulary": VOCABULARY,
        "embedding": EMBEDDING,
        "hidden": HIDDEN,
        "batch": BATCH,
        "gate_width": GATE,
        "threads": 1,
    }
    write_report(asked.json, systems=systems, ratios=ratios, shape=shape)


if __name__ == "__main__":
    main()
