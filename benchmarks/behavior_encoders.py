"""Which encoder's item vectors tell best what other users do next?
Reads: a data set with text or vectors, its text cache. Writes: JSON.

    python benchmarks/behavior_encoders.py --data BEAUTY --json docs/evidence/behavior_encoders.json

In each case, a cut-off and a seed, the users before the cut-off are divided at random. Encoders
learn from one half's events before the cut-off; what is judged are events of the other half in the
91 days after it, so that no encoder is asked for what it made itself. A user's latest ten items say
what the user is after (cosine with their mean); how far that is believed, by the item's number of
events, is fitted on other users of the same days (`_next_events.py`). Every vector is read alone
and beside the content vectors. `content_map`, a ridge regression from content to the stock SASRec's
vectors for all items, only maps content: an encoder has to tell more than that.
Likelihoods are means of nats an event over popularity's. Intervals are 95 % from a bootstrap of
users, cases pooled.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _measure import machine
from _next_events import GROUPS, NextEvents, judged, next_events, similarity

if TYPE_CHECKING:
    from adc_features.data.dataset import Dataset
    from adc_features.encoders.behavior import BehaviorVectors, Content

CASES = ("2012-12-01:0", "2012-12-01:1", "2012-12-01:2")
STOCK = "sasrec"
WINDOW = timedelta(days=91)
DRAWS = 1000
Judged = dict[str, tuple[np.ndarray, np.ndarray]]


def content_of(dataset: Dataset) -> Content:
    """Vectors and presence of every content modality of the catalogue."""
    from adc_features.codes.embeddings import vector_matrix
    from adc_features.encoders.text import (
        OFFLINE_MODEL,
        cache_directory,
        item_texts,
        text_vectors,
    )

    return {
        view: text_vectors(
            item_texts(dataset.items, columns), model=OFFLINE_MODEL, cache=cache_directory()
        )
        for view, columns in dataset.text_views.items()
    } | {m: vector_matrix(dataset.items[f"vector_{m}"], name=m) for m in dataset.vector_modalities}


def first_half(log: Any, seed: int) -> np.ndarray:
    """Which rows of interactions are of the first half of the users, bool [E]."""
    users, user = np.unique(log["user_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    return (np.random.default_rng((seed, 9)).permutation(len(users)) < len(users) // 2)[user]


def case(
    dataset: Dataset,
    content: Content,
    encoders: list[str],
    *,
    as_of: datetime,
    seed: int,
    most: int,
    checkpoint: Path | None,
) -> tuple[NextEvents, Judged, dict[str, float]]:
    """What was asked, what each reading said of it, and CPU seconds of each encoder."""
    import pyarrow.compute as pc

    from adc_features.codes.embeddings import id_array
    from adc_features.encoders.behavior import ENCODERS, RECIPES, behavior_series
    from adc_features.encoders.event_log import event_log

    ids, log = id_array(dataset.items["item_id"]), dataset.before(as_of)
    mask = first_half(log, seed)
    made, spent = {}, {}
    for name in encoders:
        started = time.process_time()
        [made[name]] = behavior_series(
            log.filter(mask),
            ids,
            cutoffs=[as_of],
            settings=RECIPES[ENCODERS[name].recipe](),
            seed=seed,
            content=[content] if ENCODERS[name].reads_content else None,
            checkpoint=checkpoint,
        )
        spent[name] = time.process_time() - started
        facts = f"as_of={as_of:%F} seed={seed} encoder={name} cpu_s={spent[name]:.0f}"
        print(facts, file=sys.stderr, flush=True)
    later = dataset.before(as_of + WINDOW)
    makers = pc.unique(log["user_id"].filter(mask))
    others = later.filter(pc.invert(pc.is_in(later["user_id"], value_set=makers)))
    asked = next_events(
        event_log(others, ids),
        made[encoders[0]].interaction_count,
        as_of,
        as_of + WINDOW,
        most=most,
        seed=seed,
    )
    names = np.unique(others["user_id"].to_numpy(zero_copy_only=False))
    asked = replace(asked, user=names[asked.user])  # of one numbering in all cases
    return asked, readings(asked, content, made, seed=seed), spent


def readings(
    asked: NextEvents, content: Content, made: dict[str, BehaviorVectors], *, seed: int
) -> Judged:
    """Likelihood and rank of the events by popularity, content, and each encoder's vectors alone
    and beside content.
    """
    from adc_features.encoders.content_axes import content_axes

    axes = content_axes(content, width=128, earlier=None).of(content)
    everyone = np.ones(len(axes), bool)
    beside = similarity(asked, axes, everyone)
    stock = made[STOCK]
    mapped = _mapped(axes, stock.vectors, stock.interaction_count)
    found = {name: (v.vectors, v.present) for name, v in made.items()}
    found["content_map"] = (mapped, everyone)
    out: Judged = {
        "popularity": judged(asked, [], seed=seed),
        "content": judged(asked, [beside], seed=seed),
    }
    for name, (vectors, present) in found.items():
        own = similarity(asked, vectors, present)
        out[name] = judged(asked, [own], seed=seed)
        out[f"{name}_beside_content"] = judged(asked, [beside, own], seed=seed)
    return out


def _mapped(content: np.ndarray, vectors: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Ridge regression from content to vectors, items weighed by their events; of all items."""
    from sklearn.linear_model import RidgeCV

    known = count > 0
    model = RidgeCV(np.logspace(-2, 3, 6)).fit(
        content[known], vectors[known], sample_weight=count[known].astype(np.float64)
    )
    return model.predict(content).astype(np.float32)


def summary(cases: list[tuple[NextEvents, Judged]], over: str | None, name: str) -> dict[str, Any]:
    """Likelihood (over another reading's) and recall@10 (less its), of all events and by the group
    of the item; with intervals of users.
    """
    user, group, likelihood, hit = [], [], [], []
    for asked, said in cases:
        base = said[over] if over else said["popularity"]
        own = said[name]
        user.append(asked.user)
        group.append(asked.group[asked.target])
        likelihood.append(own[0] - base[0])
        less = (base[1] < 10).astype(float) if over else 0.0
        hit.append((own[1] < 10) - less)
    user_E, group_E = np.concatenate(user), np.concatenate(group)
    values = {"likelihood": np.concatenate(likelihood), "recall_at_10": np.concatenate(hit)}
    rows = {"all": np.ones(len(user_E), bool)}
    rows |= {label: group_E == g for g, label in enumerate(GROUPS)}
    return {
        label: {
            "events": int(kept.sum()),
            **{m: _interval(v[kept], user_E[kept]) for m, v in values.items()},
        }
        for label, kept in rows.items()
        if kept.any()
    }


def _interval(values: np.ndarray, users: np.ndarray) -> dict[str, float]:
    """Mean and 95 % bounds over resampled users."""
    number = np.unique(users, return_inverse=True)[1]
    total, size = np.bincount(number, values), np.bincount(number)
    rows = np.random.default_rng(0).integers(len(size), size=(DRAWS, len(size)))
    means = total[rows].sum(1) / size[rows].sum(1)
    return {
        "mean": float(values.mean()),
        "low": float(np.quantile(means, 0.025)),
        "high": float(np.quantile(means, 0.975)),
    }


def report(cases: dict[str, tuple[NextEvents, Judged]], encoders: list[str]) -> dict[str, Any]:
    """Every reading, and each encoder against the stock one: pooled, and in each case."""
    every = list(cases.values())
    out: dict[str, Any] = {n: summary(every, None, n) for n in every[0][1]}
    paired: dict[str, Any] = {}
    for ending in ("", "_beside_content"):
        for name in (n for n in encoders if n != STOCK):
            pair = (STOCK + ending, name + ending)
            paired[f"{name}_minus_{STOCK}{ending}"] = {
                **summary(every, *pair),
                "likelihood_by_case": {
                    c: float((said[pair[1]][0] - said[pair[0]][0]).mean())
                    for c, (_, said) in cases.items()
                },
            }
    for name in (*encoders, "content_map"):
        paired[f"{name}_beside_content_minus_content"] = summary(
            every, "content", f"{name}_beside_content"
        )
    return {**out, "paired": paired}


def main() -> None:
    from adc_features.encoders.behavior import ENCODERS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a directory, or `synthetic`")
    parser.add_argument("--case", action="append", help="DATE:SEED; repeatable")
    parser.add_argument("--encoders", default=",".join(ENCODERS))
    parser.add_argument("--events", type=int, default=2500, help="judged in a case, at most")
    parser.add_argument("--checkpoint", type=Path, help="where vectors are kept between calls")
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()

    import torch

    from adc_features.pipeline.source import load_source

    torch.set_num_threads(1)
    encoders = asked.encoders.split(",")
    dataset = load_source(asked.data, seed=0)
    content = content_of(dataset)
    cases, spent = {}, {}
    for name in asked.case or CASES:
        date, _, seed = name.partition(":")
        events, said, spent[name] = case(
            dataset,
            content,
            encoders,
            as_of=datetime.fromisoformat(date).replace(tzinfo=UTC),
            seed=int(seed),
            most=asked.events,
            checkpoint=asked.checkpoint,
        )
        cases[name] = (events, said)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    facts = {
        "command": f"python benchmarks/behavior_encoders.py --data {Path(asked.data).name} "
        + " ".join(f"--case {name}" for name in cases)
        + f" --encoders {asked.encoders} --events {asked.events}",
        "commit": commit,
        "machine": machine(),
        "encoder_cpu_seconds": spent,
    }
    text = json.dumps({**facts, **report(cases, encoders)}, indent=2)
    if asked.json == "-":
        print(text)
    else:
        Path(asked.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
