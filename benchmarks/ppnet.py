"""What does PPNet's gate cost, beside a plain MLP and beside FuxiCTR's PPNet? Reads: nothing.
Writes: JSON.

    python benchmarks/ppnet.py --json - --fuxictr-python fux/bin/python \\
        --fuxictr-model FuxiCTR/model_zoo/PEPNet/src/PPNet.py

Four id features, embedding 16, batch 4,096, hidden (256, 128), Adam, one thread, the same values
for all; prior: the first two ids. FuxiCTR 2.3.10 needs an environment of its own (polars < 2), and
its PPNet class is a file of its repository, not of its package; without both options only our two
networks are measured.

`ppnet.{adc,fuxictr}` is the same comparison on 40 features: 10 numbers, 28 categories (three of
them codes), 2 sequences of 10 values on average and 20 at most. Ours takes its batches out of the
encoded rows and replaces some rows by "unknown" within the time that is measured; FuxiCTR is given
finished tensors, padded to 20.

    python benchmarks/ppnet.py --files 2000000 --json -

measures one epoch over so many rows of the four ids from memory (`memory`) and from files
(`files`, `training.ranker.row_files`), and nothing else.
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
NUMBERS, SEQUENCES, LONGEST, WIDE_STEPS = 10, (12_000, 12_000), 20, 10
PIECE = 131_072
CATEGORIES = (20_000,) * 5 + (1_000,) * 10 + (50,) * 10 + (257,) * 3


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

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step(ids, label) -> None:
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(forward(ids), label).backward()
        optimizer.step()

    return step


def ours() -> dict[str, float]:
    """The network of a ranker on declared inputs, batches included."""
    import numpy as np
    import torch

    from adc_features.inputs.encoded import (
        Block,
        Encoded,
        InputLayout,
        Layout,
        Lookup,
        SlotLayout,
    )

    ids, label = (torch.cat(parts).numpy() for parts in zip(*batches(), strict=True))
    inputs, blocks = {}, {}
    for n in range(len(VOCABULARY)):
        inputs[f"c{n}"] = InputLayout(slots=(SlotLayout("lookup", (f"c{n}",)),))
        blocks[f"c{n}"] = Block(np.empty((len(ids), 0), np.float32), (Lookup(ids[:, n]),))
    tables = {f"c{n}": size for n, size in enumerate(VOCABULARY)}
    return trained(Layout(inputs, tables), Encoded(blocks, len(ids)), label)


def plain_mlp() -> dict[str, float]:
    from itertools import accumulate, pairwise

    import torch
    from torch import nn

    starts = torch.tensor([0, *accumulate(VOCABULARY)][:-1])
    widths = [EMBEDDING * len(VOCABULARY), *HIDDEN]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(
        nn.Embedding(sum(VOCABULARY), EMBEDDING),
        nn.Flatten(),
        *layers,
        nn.Linear(widths[-1], 1),
    )
    return timed(torch_step(model, lambda ids: model(ids + starts).squeeze(1)))


def fuxictr_model(model_file: str, columns: dict[str, dict], priors: list[str]):
    """FuxiCTR's PPNet on features that it is told of, ready to train."""
    import importlib.util

    from fuxictr.features import FeatureMap

    spec = importlib.util.spec_from_file_location("fuxictr_ppnet", model_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    features = FeatureMap("bench", tempfile.gettempdir())
    features.features.update(columns)
    features.labels, features.num_fields, features.default_emb_dim = (
        ["label"],
        len(columns),
        EMBEDDING,
    )
    model = module.PPNet(
        features,
        embedding_dim=EMBEDDING,
        gate_emb_dim=EMBEDDING,
        gate_priors=priors,
        hidden_units=list(HIDDEN),
        optimizer="adam",
        loss="binary_crossentropy",
        verbose=0,
        model_root=tempfile.mkdtemp(),
        metrics=["AUC"],
    )
    model._max_gradient_norm = 10.0
    model.train()
    return model


def fuxictr(model_file: str) -> dict[str, float]:
    """FuxiCTR's class and its own train_step. Runs in FuxiCTR's interpreter."""
    names = [f"f{n}" for n in range(len(VOCABULARY))]
    model = fuxictr_model(
        model_file,
        {
            name: {"source": "", "type": "categorical", "vocab_size": size}
            for name, size in zip(names, VOCABULARY, strict=True)
        },
        names[:2],
    )
    return timed(
        lambda ids, label: model.train_step(
            {**{name: ids[:, n] for n, name in enumerate(names)}, "label": label}
        )
    )


def wide_columns() -> dict:
    """The columns of WIDE_STEPS batches. numbers: float32 [N, 10], categories: int64 [N, 28],
    sequences: int64 [2, N, 20] with sizes [2, N], label: float32 [N].
    """
    import numpy as np

    rng = np.random.default_rng(0)
    count = WIDE_STEPS * BATCH
    return {
        "numbers": rng.normal(size=(count, NUMBERS)).astype(np.float32),
        "categories": np.stack(
            [(size * rng.random(count) ** 3).astype(np.int64) for size in CATEGORIES], axis=1
        ),
        "sequences": np.stack(
            [
                1 + ((size - 1) * rng.random((count, LONGEST)) ** 3).astype(np.int64)
                for size in SEQUENCES
            ]
        ),
        "sizes": rng.integers(0, LONGEST + 1, (len(SEQUENCES), count)),
        "label": (rng.random(count) < 0.5).astype(np.float32),
    }


def timed_epochs(epoch: Callable, *, rows: int) -> dict[str, float]:
    """The fastest of BLOCKS epochs over so many rows."""
    from _measure import peak_rss_bytes

    epoch()
    spent = []
    for _ in range(BLOCKS):
        wall, cpu = time.perf_counter(), time.process_time()
        epoch()
        spent.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = min(spent)
    return {
        "cpu_s": cpu,
        "wall_s": wall,
        "rows_per_cpu_s": rows / cpu,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def wide_rows(columns: dict) -> tuple:
    """The columns as an encoder makes them: Layout, Encoded."""
    import numpy as np

    from adc_features.inputs.encoded import (
        Bag,
        Block,
        Encoded,
        InputLayout,
        Layout,
        Lookup,
        SlotLayout,
    )

    inputs, tables, blocks = {}, {}, {}
    count = len(columns["label"])
    for n in range(NUMBERS):
        inputs[f"n{n}"] = InputLayout(("number", "absent"), {0: 1})
        value = columns["numbers"][:, n]
        blocks[f"n{n}"] = Block(np.stack([value, np.zeros_like(value)], 1))
    for n, size in enumerate(CATEGORIES):
        name = f"c{n}"
        inputs[name] = InputLayout(slots=(SlotLayout("lookup", (name,), dropout=0.05),))
        tables[name] = size
        blocks[name] = Block(
            np.empty((count, 0), np.float32), (Lookup(columns["categories"][:, n]),)
        )
    for n, size in enumerate(SEQUENCES):
        name, sizes = f"s{n}", columns["sizes"][n]
        inputs[name] = InputLayout(("size", "absent"), slots=(SlotLayout("bag", (name,)),))
        tables[name] = size
        held = np.arange(LONGEST) < sizes[:, None]
        offsets = np.concatenate([[0], sizes.cumsum()])
        weights = np.repeat(1 / np.maximum(sizes, 1), sizes).astype(np.float32)
        blocks[name] = Block(
            np.stack([np.log1p(sizes), np.zeros(count)], 1).astype(np.float32),
            (Bag(columns["sequences"][n][held], offsets, weights),),
        )
    return Layout(inputs, tables), Encoded(blocks, count)


def ours_wide() -> dict[str, float]:
    """The same network on 40 features."""
    columns = wide_columns()
    return trained(*wide_rows(columns), columns["label"])


def trained(layout, encoded, label) -> dict[str, float]:
    """Epochs of our network over encoded rows; its gates see the first two categories."""
    import numpy as np
    import torch

    from adc_features.inputs.declaration import Ranker, Task
    from adc_features.ranking.multitask.shape import NetworkSettings, NetworkShape
    from training.ranker.fit_network import Epochs, FitSettings
    from training.ranker.labelled import Labelled

    torch.set_num_threads(1)
    shape = NetworkShape.of(
        layout,
        Ranker("bench", [Task("click")], gates=["c0", "c1"]),
        settings=NetworkSettings(embedding=EMBEDDING, hidden=HIDDEN, gate=GATE),
    )
    rows = Labelled(encoded, label[None], np.ones((1, len(label)), bool), np.ones(len(label)))
    settings = FitSettings(batch=BATCH, dropout=0.0, learning_rate=1e-3)
    return timed_epochs(Epochs(rows, shape, settings, seed=0).run, rows=len(label))


def epoch_of_rows(rows: int, place: str | None) -> dict[str, float]:
    """One epoch over rows that are drawn a piece at a time; place: a directory for their files,
    None for memory.
    """
    import numpy as np
    import torch
    from _measure import measured

    from adc_features.inputs.declaration import Ranker, Task
    from adc_features.inputs.encoded import Block, Encoded, InputLayout, Layout, Lookup, SlotLayout
    from adc_features.ranking.multitask.shape import NetworkSettings, NetworkShape
    from training.ranker.epochs import Epochs, FitSettings
    from training.ranker.labelled import Labelled
    from training.ranker.row_files import RowFiles

    torch.set_num_threads(1)
    names = [f"c{n}" for n in range(len(VOCABULARY))]
    layout = Layout(
        {name: InputLayout(slots=(SlotLayout("lookup", (name,)),)) for name in names},
        dict(zip(names, VOCABULARY, strict=True)),
    )
    shape = NetworkShape.of(
        layout,
        Ranker("bench", [Task("click")], gates=names[:2]),
        settings=NetworkSettings(embedding=EMBEDDING, hidden=HIDDEN, gate=GATE),
    )

    def encoded(ids: "np.ndarray") -> Encoded:
        none = np.empty((ids.shape[1], 0), np.float32)
        blocks = {name: Block(none, (Lookup(of),)) for name, of in zip(names, ids, strict=True)}
        return Encoded(blocks, ids.shape[1])

    def drawn(start: int) -> "np.ndarray":
        rng = np.random.default_rng(start)
        drawn = rng.random((len(VOCABULARY), min(PIECE, rows - start))) ** 3
        return (np.array(VOCABULARY)[:, None] * drawn).astype(np.int64)

    pieces = (drawn(start) for start in range(0, rows, PIECE))
    source = (
        encoded(np.concatenate(list(pieces), axis=1))
        if place is None
        else RowFiles.write(Path(place) / "rows", map(encoded, pieces), shape)
    )
    label = (np.random.default_rng(0).random(rows) < 0.78).astype(np.float32)
    learned = Labelled(source, label[None], np.ones((1, rows), bool), np.ones(rows, np.float32))
    settings = FitSettings(batch=BATCH, dropout=0.0, learning_rate=1e-3)
    fitted = Epochs(learned, shape, settings, seed=0)

    def epoch() -> int:
        fitted.run()
        return rows

    found = measured(epoch)
    return {**found, "rows_per_cpu_s": rows / found["cpu_s"]}


def files_report(rows: int, repeat: int) -> tuple[dict, dict]:
    """The faster of so many epochs from memory and from files, in turn, and their ratio."""
    from _measure import apart as in_process

    runs: dict[str, list[dict[str, float]]] = {"memory": [], "files": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeat):
            runs["memory"].append(in_process(epoch_of_rows, rows, None))
            runs["files"].append(in_process(epoch_of_rows, rows, folder))
    systems = {name: min(found, key=lambda m: m["cpu_s"]) for name, found in runs.items()}
    files, memory = (systems[name]["rows_per_cpu_s"] for name in ("files", "memory"))
    systems["files"]["cpu_s_of_100m_rows_extrapolated"] = 1e8 / files
    return systems, {"files_rows_per_cpu_s_over_memory": files / memory}


def fuxictr_wide(model_file: str) -> dict[str, float]:
    """FuxiCTR's class and its own train_step on the same columns. Runs in its interpreter."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    columns = wide_columns()
    features = {
        f"n{n}": ({"source": "", "type": "numeric"}, columns["numbers"][:, n])
        for n in range(NUMBERS)
    }
    for n, size in enumerate(CATEGORIES):
        features[f"c{n}"] = (
            {"source": "", "type": "categorical", "vocab_size": size},
            columns["categories"][:, n],
        )
    for n, size in enumerate(SEQUENCES):
        held = np.arange(LONGEST) < columns["sizes"][n][:, None]
        features[f"s{n}"] = (
            {
                "source": "",
                "type": "sequence",
                "vocab_size": size,
                "padding_idx": 0,
                "max_len": LONGEST,
                "feature_encoder": "layers.MaskedAveragePooling()",
            },
            np.where(held, columns["sequences"][n], 0),
        )
    model = fuxictr_model(
        model_file, {name: said for name, (said, _) in features.items()}, ["c0", "c1"]
    )
    given = {name: values for name, (_, values) in features.items()} | {"label": columns["label"]}
    batches = [
        {
            name: torch.from_numpy(np.ascontiguousarray(values[n * BATCH : (n + 1) * BATCH]))
            for name, values in given.items()
        }
        for n in range(WIDE_STEPS)
    ]

    def epoch() -> None:
        for batch in batches:
            model.train_step(batch)

    return timed_epochs(epoch, rows=WIDE_STEPS * BATCH)


SYSTEMS = {"ppnet": ours, "plain_mlp": plain_mlp, "ppnet_40": ours_wide}
FUXICTR = {"fuxictr_ppnet": fuxictr, "fuxictr_ppnet_40": fuxictr_wide}


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
    parser.add_argument(
        "--files", type=int, metavar="ROWS", help="compare rows in files with rows in memory"
    )
    parser.add_argument("--only", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        print(
            json.dumps(
                FUXICTR[asked.only](asked.fuxictr_model)
                if asked.only in FUXICTR
                else SYSTEMS[asked.only]()
            )
        )
        return
    from _measure import write_report

    if asked.files:
        systems, ratios = files_report(asked.files, asked.repeat)
        write_report(asked.json, systems=systems, ratios=ratios, rows=asked.files, piece=PIECE)
        return
    commands = {name: (sys.executable, "--only", name) for name in SYSTEMS}
    if asked.fuxictr_python and asked.fuxictr_model:
        for name in FUXICTR:
            commands[name] = (
                asked.fuxictr_python,
                "--only",
                name,
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
    ppnet = {"adc": {"rows_per_cpu_s": rate["ppnet_40"]}}
    if "fuxictr_ppnet_40" in rate:
        ppnet["fuxictr"] = {"rows_per_cpu_s": rate["fuxictr_ppnet_40"]}
        ratios["ppnet_40_rows_per_cpu_s_over_fuxictr"] = rate["ppnet_40"] / rate["fuxictr_ppnet_40"]
    shape = {
        "vocabulary": VOCABULARY,
        "embedding": EMBEDDING,
        "hidden": HIDDEN,
        "batch": BATCH,
        "gate_width": GATE,
        "threads": 1,
    }
    write_report(asked.json, systems=systems, ratios=ratios, shape=shape, ppnet=ppnet)


if __name__ == "__main__":
    main()
