"""How well each trained retriever finds the next item. Reads: Source, trained retrievers. Writes:
metrics; <out>/shares.json, <out>/events.jsonl (when the test items were opened).

Choices are made on the validation items.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import MANIFEST, append_line, read_manifest, within, write_json
from adc_features.encoders.sasrec import Sequences
from adc_features.errors import ArtifactError, InputError
from adc_features.generator.generator import Generator, GeneratorSettings, load_generator
from adc_features.pipeline.run import Progress
from training.retrieval.full_ranking import Scorer, ranks
from training.retrieval.leave_one_out import Part, UserMetrics, mean_metrics, user_metrics
from training.retrieval.retrievers import ITEMS, MIXED, POSITIONS, SASREC, WEIGHTED
from training.retrieval.source import Source

SHARES = (0.25, 0.5, 0.75)
"""Shares of SASRec in a mixed score that validation chooses from."""


def evaluate(
    source: Source, out: Path, *, part: Part, progress: Progress | None = None
) -> dict[str, Any]:
    """Rank the whole catalogue for every evaluated user by every trained retriever.

    Returns `<name>`: metrics, means over its seeds, and those of each seed; `paired`: differences
    to SASRec and of ADC-SID's codes to others in the same generator, with 95 % intervals over the
    users. `<name>_mixed` adds SASRec's log P(item) of the same seed to the codes'; its share is the
    one of SHARES with the best validation NDCG@10, kept in shares.json, which the test items need.
    Items of the user's history are left out of the list. Raises ArtifactError when there is no
    complete model or one was trained on other sequences, InputError on test items before
    validation.
    """
    manifests = _trained(source, out)
    models = [m["files"] for m in manifests]
    shares = _shares(out, models) if part == "test" else {}
    if part == "test":
        _record_opening(out, [f"{m['name']}-seed_{m['seed']}" for m in manifests])
    histories, targets = source.split.histories(part)
    scorers = {(m["name"], m["seed"]): Scorer.of(_model(out, m), histories) for m in manifests}
    found = _user_metrics(scorers, targets, histories, shares=shares, progress=progress)
    parameters = {m["name"]: m["parameters"] for m in reversed(manifests)}
    result: dict[str, Any] = {
        "part": part,
        "users": len(targets),
        "catalogue": len(source.split.item_ids),
        "seen_items": "left out",
        "seeds": sorted({m["seed"] for m in manifests}),
        "retrievers": list(found),
    }
    means = {}
    for name, seeds in found.items():
        each = [mean_metrics(list(same)) for same in zip(*seeds.values(), strict=True)]
        best = int(np.argmax([c.means()["ndcg_at_10"] for c in each]))
        means[name] = each[best]
        result[name] = {
            **each[best].means(),
            "seeds": {str(seed): c[best].means() for seed, c in seeds.items()},
        }
        if name.endswith(MIXED):
            result[name]["sasrec_share"] = shares.setdefault(name, SHARES[best])
        else:
            result[name]["parameters"] = parameters[name]
    if part == "validation":
        write_json(out / "shares.json", {"models": models, "shares": shares})
    result["paired"] = {
        f"{a}_minus_{b}": means[a].difference(means[b]) for a, b in _pairs(list(found))
    }
    return result


def _trained(source: Source, out: Path) -> list[dict[str, Any]]:
    """Manifests of the trained retrievers, all of these sequences."""
    manifests = [
        read_manifest(path.parent) for path in sorted((out / "models").glob(f"*/{MANIFEST}"))
    ]
    if not manifests:
        raise ArtifactError(
            f"{out} holds no trained retriever; run `adc retrieve train --out {out}` first"
        )
    if strange := [m["name"] for m in manifests if m["made_of"]["source"] != source.fingerprint]:
        raise ArtifactError(
            f"{strange[0]} in {out} was trained on other items or sequences; train it again, or"
            " evaluate on those it knows"
        )
    return manifests


def _user_metrics(
    scorers: Mapping[tuple[str, int], Scorer],
    targets: np.ndarray,
    histories: Sequences,
    *,
    shares: Mapping[str, float],
    progress: Progress | None,
) -> dict[str, dict[int, list[UserMetrics]]]:
    """By name and seed, one for each share of SASRec that was tried: those of SHARES, unless
    validation chose.
    """
    found: dict[str, dict[int, list[UserMetrics]]] = {}
    for number, ((name, seed), scorer) in enumerate(scorers.items()):
        found.setdefault(name, {})[seed] = _ranked([scorer], targets, histories, mixes=[[1.0]])
        if name != SASREC and not name.endswith(ITEMS) and (SASREC, seed) in scorers:
            tried = [shares[name + MIXED]] if shares else SHARES
            found.setdefault(name + MIXED, {})[seed] = _ranked(
                [scorer, scorers[SASREC, seed]],
                targets,
                histories,
                mixes=[[1 - share, share] for share in tried],
            )
        if progress is not None:
            progress("evaluate", number + 1, len(scorers))
    return found


def _model(out: Path, manifest: Mapping[str, Any]) -> Generator:
    name = f"{manifest['name']}-seed_{manifest['seed']}"
    path = within(out / "models", name, said_by="a model's manifest") / "model.safetensors"
    return load_generator(path, GeneratorSettings(**manifest["made_of"]["settings"]))


def _ranked(
    scorers: Sequence[Scorer],
    targets: np.ndarray,
    histories: Sequences,
    *,
    mixes: Sequence[Sequence[float]],
) -> list[UserMetrics]:
    return [
        user_metrics(above, tied)
        for above, tied in zip(*ranks(scorers, targets, histories, mixes=mixes), strict=True)
    ]


def _shares(out: Path, models: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """What validation chose for these very models."""
    path = out / "shares.json"
    chosen = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if chosen is None or chosen["models"] != models:
        raise InputError(
            f"the retrievers in {out} were not evaluated on the validation items as they are; run"
            f" `adc retrieve evaluate --out {out}` first"
        )
    return dict(chosen["shares"])


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every retriever with codes against SASRec, and each on ADC-SID's codes against its like on
    other codes.
    """
    coded = [n for n in names if n != SASREC]

    def kind(name: str) -> tuple[str, ...]:
        return tuple(ending for ending in (WEIGHTED, POSITIONS, ITEMS, MIXED) if ending in name)

    against = [(n, SASREC) for n in coded if SASREC in names]
    return against + [
        (a, b)
        for a in coded
        for b in coded
        if a.startswith("adc") and not b.startswith("adc") and kind(a) == kind(b)
    ]


def _record_opening(out: Path, models: Sequence[str]) -> None:
    """Append to events.jsonl that the test items are looked at now."""
    line = json.dumps(
        {"time": datetime.now(UTC).isoformat(), "event": "test_items_opened", "models": models}
    )
    append_line(out / "events.jsonl", line)
