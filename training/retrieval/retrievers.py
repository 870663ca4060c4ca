"""Generators trained on the codes of each tokenizer. Reads: Source. Writes:

<out>/models/<name>-seed_<n>/       model.safetensors; manifest.json last

Everything that learns, behaviour vectors and tokenizers included, sees the training part alone.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adc_features import __version__
from adc_features.artifact import ensure_directory, read_manifest
from adc_features.generator.catalogue import Coded
from adc_features.generator.generator import GeneratorSettings, save_generator
from adc_features.pipeline.run import Progress
from training.retrieval.codes import (
    ENCODER,
    FORMER_ENCODER,
    FORMER_LENGTH,
    LONGER,
    coded_name,
    codes_of,
    loss_weights,
)
from training.retrieval.generator_training import train_generator
from training.retrieval.source import Source

SASREC = "sasrec"
"""The baseline's name: no codes, one row a item and the softmax over all of them."""
ITEMS = "_items"
"""Ends the name of a hybrid: an item's own row beside its codes."""
WEIGHTED, POSITIONS, MIXED = "_weighted", "_positions", "_mixed"
"""Stand in the names of a generator whose loss reads the learned weights, of one that learned each
position on its own, and of a score that adds SASRec's.
"""


_FORMER: Mapping[str, Any] = {"encoder": FORMER_ENCODER, "longer": FORMER_LENGTH}
"""What manifests leave out: these are the values of those that know no others."""


@dataclass(frozen=True)
class Retriever:
    """What to train. tokenizer: one of `adc fit`, or None for no codes. encoder: of the behaviour
    that the tokenizer reads, as for `adc embed behavior`. items: with a row of its own for each
    item. weighted: learned weights as loss weights. codebook_size: K. longer: times as many
    positions.
    """

    tokenizer: str | None
    encoder: str = ENCODER
    items: bool = False
    weighted: bool = False
    codebook_size: int = 256
    longer: int = LONGER

    @property
    def name(self) -> str:
        return (
            (coded_name(self.tokenizer, self.encoder, self.longer) if self.tokenizer else SASREC)
            + (WEIGHTED if self.weighted else "")
            + (ITEMS if self.items and self.tokenizer else "")
        )


def _made_of(retriever: Retriever) -> dict[str, Any]:
    """What a retriever's manifest says of it; without codes it has neither encoder nor length."""
    said = asdict(retriever if retriever.tokenizer else replace(retriever, **_FORMER))
    return {key: value for key, value in said.items() if (key, value) not in _FORMER.items()}


def retriever_of(tokenizer: str, **options: Any) -> Retriever:
    """The retriever that `adc retrieve train` names."""
    return Retriever(None) if tokenizer == SASREC else Retriever(tokenizer, **options)


def train(
    source: Source,
    out: Path,
    retriever: Retriever,
    *,
    seed: int,
    settings: GeneratorSettings,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Mapping[str, Any]:
    """Train one retriever, or find it trained from these very inputs; returns its manifest.
    device: where it and its tokenizer are trained.
    """
    name = retriever.name + (
        POSITIONS if settings.loss == "positions" and retriever.tokenizer else ""
    )
    directory = out / "models" / f"{name}-seed_{seed}"
    checkpoint = out / ".partial" / f"{name}-seed_{seed}.pt"
    coded = _coded(source, out, retriever, seed=seed, progress=progress, device=device)
    settings = (
        replace(settings, items=True, loss="catalogue")
        if coded is None
        else replace(settings, items=retriever.items)
    )
    made_of = {
        "version": __version__,
        "source": source.fingerprint,
        **_made_of(retriever),
        "codes": coded.fingerprint if coded else None,
        "seed": seed,
        "settings": asdict(settings),
    }

    def fill(target: Path) -> Mapping[str, Any]:
        began = time.process_time()
        model, curve = train_generator(
            source.split.training,
            coded,
            items=len(source.split.item_ids),
            settings=settings,
            seed=seed,
            checkpoint=checkpoint,
            fingerprint=json.dumps(made_of, sort_keys=True),
            progress=(
                None
                if progress is None
                else lambda done, total: progress(f"train {name} seed {seed}", done, total)
            ),
            device=device,
        )
        save_generator(model, target / "model.safetensors")
        return {
            "name": name,
            "seed": seed,
            "parameters": sum(p.numel() for p in model.parameters()),
            "curve": curve,
            "cpu_seconds": round(time.process_time() - began, 1),
        }

    if ensure_directory(directory, made_of, fill):
        checkpoint.unlink(missing_ok=True)
    return read_manifest(directory)


def _coded(
    source: Source,
    out: Path,
    retriever: Retriever,
    *,
    seed: int,
    progress: Progress | None,
    device: str,
) -> Coded | None:
    """The codes of a retriever's tokenizer, and how much each position counts in the loss."""
    if retriever.tokenizer is None:
        return None
    sids, spec = codes_of(
        source,
        out,
        tokenizer=retriever.tokenizer,
        encoder=retriever.encoder,
        codebook_size=retriever.codebook_size,
        longer=retriever.longer,
        seed=seed,
        progress=progress,
        device=device,
    )
    weights = (
        loss_weights(sids, spec.is_behavioral)
        if retriever.weighted
        else np.ones(sids.sid.shape, np.float32)
    )
    return Coded(sids.sid, weights, spec.codebook_size)
