"""How many codes does `posterior` keep between snapshots, and what does that cost? Reads: a run up
to its behaviour stage. Writes: JSON.

    python benchmarks/hold.py --run runs/beauty --json hold.json

A tokenizer is fitted on the run's vectors as of the fourth last cut-off and encodes the last four,
each with the codes of the one before held by `slack`. `kept` is the share of codes that stay, of
items that have behaviour in both snapshots or in neither, and of all; `more_distortion` how much
larger the mean squared distance of vectors from their codes is than without a hold. `fit_cpu_s`,
and items encoded a CPU second, are told too.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _measure import machine


def distortion(table: Any, generation: Any, network: Any, sid: np.ndarray) -> float:
    """Mean squared distance of what is coded from the sum of its codes."""
    import torch

    from adc_features.tokenizer.encode import _block, reliability

    chain, x, found = network.chain("shared"), reliability(table, generation), []
    for start in range(0, len(table), 1024):
        part = slice(start, min(start + 1024, len(table)))
        with torch.inference_mode():
            rows = _block(table, x, part, network, cutoff=0)
            vectors, model = network.read(rows), network.model
            belief = model.believe(model.inputs(vectors, rows.present, rows.x))
            coded = network.coded("shared", vectors, belief)[: part.stop - start]
            codes = torch.from_numpy(sid[part]).long().clamp_min(0)
            found.append((coded - chain.sum(codes)).square().sum(1))
    return float(torch.cat(found).mean())


def measured(directory: Path, slacks: list[float]) -> dict[str, Any]:
    """`by_slack`, and the cost of fitting and encoding."""
    from adc_features.codes.spec import BEHAVIOR, SidSpec
    from adc_features.pipeline.context import embedding_tables
    from adc_features.pipeline.run import Run
    from adc_features.tokenizer.encode import encode, read
    from adc_features.tokenizer.fit import RECIPES, fit

    tables = embedding_tables(Run.open(directory))[-4:]
    spec = SidSpec(content={m: 1 for m in tables[0].vectors if m != BEHAVIOR})
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        generation = fit(
            tables[:1],
            spec,
            settings=RECIPES["posterior"](),
            generation_id="g",
            directory=Path(scratch) / "g",
            seed=0,
        )
        fit_cpu_s = time.process_time() - began
        network = read(generation)
    by_slack, free = {}, []
    for slack in [0.0, *slacks]:
        network.settings = replace(network.settings, slack=slack)
        codes, told, spent = None, [], 0.0
        for n, table in enumerate(tables):
            began = time.process_time()
            made = encode(table, generation, previous=codes if slack else None, network=network)
            spent += time.process_time() - began
            costs = distortion(table, generation, network, made.sid)
            free += [costs] if not slack else []
            if codes is not None:
                same = table.present[BEHAVIOR] == tables[n - 1].present[BEHAVIOR]
                stays = made.sid == codes.sid
                told.append(
                    {
                        "as_of": table.as_of.isoformat(),
                        "kept": float(stays[same].mean()),
                        "kept_of_all": float(stays.mean()),
                        "more_distortion": costs / free[n] - 1,
                    }
                )
            codes = made
        rate = sum(map(len, tables)) / spent
        by_slack[str(slack)] = {"snapshots": told, "items_per_cpu_s": rate}
    return {"items": len(tables[0]), "fit_cpu_s": fit_cpu_s, "by_slack": by_slack}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--slack", type=float, nargs="+", default=[0.35, 0.4, 0.5])
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    text = json.dumps({**measured(asked.run, asked.slack), "machine": machine()}, indent=2)
    if asked.json == "-":
        print(text)
    else:
        Path(asked.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
