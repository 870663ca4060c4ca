"""Codes of every item from the training part alone. Reads: Source. Writes:

<out>/behavior/                 item vectors of the training part's behaviour, found by content
<out>/codes/<name>-seed_<n>/    the frozen generation of a tokenizer, [+encoder], and its codes
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adc_features import __version__
from adc_features.artifact import ensure_directory
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.raw_items import RAW_TOKENIZERS, RawItems
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.data.raw_items import raw_items
from adc_features.errors import InputError
from adc_features.parquet_files import read_parquet, write_table
from adc_features.pipeline.recipes import behavior_recipe, behavior_settings
from adc_features.pipeline.run import Progress
from training.retrieval.source import Source

FLOOR, CEILING = 0.1, 4.0
"""Learned weights are held between these in the loss: a position of weight 0 would go untrained for
exactly the items of the tail (method notes: Generation from codes).
"""
ENCODER, FORMER_ENCODER = "sasrec_content", "sasrec"
"""The behaviour encoder by default, which names leave out, and the one of manifests without any."""


LONGER, FORMER_LENGTH = 2, 1
"""Times as many positions by default, which names leave out, and in manifests without any."""


def coded_name(tokenizer: str, encoder: str, longer: int) -> str:
    """How the codes of a tokenizer are called that reads the vectors of an encoder, so long."""
    name = tokenizer if encoder == ENCODER else f"{tokenizer}+{encoder}"
    return name if longer == LONGER else f"{name}_x{longer}"


def embedding_table(
    source: Source,
    *,
    seed: int,
    encoder: str = ENCODER,
    raw: RawItems | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> EmbeddingTable:
    """Content vectors (and raw items) beside behaviour vectors and counts that know the training
    part of the sequences only. encoder: what learns them, one of `adc embed behavior`.
    """
    from adc_features.encoders.behavior import behavior_series

    events, as_of = source.split.training_events()
    ids = source.split.item_ids
    content = {m: (source.vectors[m], source.present[m]) for m in source.vectors}
    [learned] = behavior_series(
        events,
        ids,
        cutoffs=[as_of],
        settings=behavior_settings(behavior_recipe(encoder, None) or encoder),
        seed=seed,
        content=[content],
        checkpoint=checkpoint,
        progress=progress,
        device=device,
    )
    vectors = {**source.vectors, BEHAVIOR: learned.vectors}
    present = {**source.present, BEHAVIOR: learned.present}
    return EmbeddingTable(ids, vectors, present, learned.interaction_count, as_of, raw)


def sid_spec(
    modalities: Iterable[str], *, codebook_size: int = 256, longer: int = LONGER
) -> SidSpec:
    """Two shared positions, four of each content modality, six of behaviour, all `longer` times:
    longer than a ranker's ID, since heads that do not wait for each other make length cheap (RPG
    uses 32 positions).
    """
    return SidSpec(
        content=dict.fromkeys(modalities, 4 * longer),
        shared=2 * longer,
        behavior=6 * longer,
        codebook_size=codebook_size,
    )


def loss_weights(sids: SidTable, behavioral: Sequence[bool]) -> np.ndarray:
    """How much each position counts in the loss, float32 [N, L]: 1 where it is content, the learned
    weight in [FLOOR, CEILING] where it is behaviour.
    """
    return np.where(behavioral, np.clip(sids.sid_weight, FLOOR, CEILING), 1.0).astype(np.float32)


def codes_of(
    source: Source,
    out: Path,
    *,
    tokenizer: str,
    encoder: str = ENCODER,
    codebook_size: int,
    longer: int = LONGER,
    seed: int,
    progress: Progress | None = None,
    device: str = "cpu",
) -> tuple[SidTable, SidSpec]:
    """The tokenizer's codes of every item, fitted on the training part, from disk where these very
    inputs made them.
    """
    from adc_features.codes.generation import open_generation
    from adc_features.tokenizer.encode import encode
    from adc_features.tokenizer.fit import RECIPES, fit

    if tokenizer not in RECIPES:
        raise InputError(f"tokenizer is {tokenizer!r}; expected one of {', '.join(RECIPES)}")
    raw = _raw(source, tokenizer) if tokenizer in RAW_TOKENIZERS else None
    name = coded_name(tokenizer, encoder, longer)
    directory = out / "codes" / f"{name}-seed_{seed}"
    spec = sid_spec(source.vectors, codebook_size=codebook_size, longer=longer)
    settings = RECIPES[tokenizer]()
    made_of = {
        "version": __version__,
        "source": source.fingerprint,
        "tokenizer": tokenizer,
        "seed": seed,
        "spec": spec.to_dict(),
        "settings": settings.to_dict(),
        **({"encoder": encoder} if encoder != FORMER_ENCODER else {}),
        **({"raw": raw.fingerprint()} if raw is not None else {}),
    }

    def fill(target: Path) -> None:
        how: dict[str, Any] = {"seed": seed, "progress": progress, "device": device}
        table = embedding_table(
            source, encoder=encoder, raw=raw, checkpoint=out / "behavior", **how
        )
        generation = fit(
            [table],
            spec,
            settings=settings,
            generation_id=tokenizer,
            directory=target / "generation",
            events=source.split.training_events()[0],
            checkpoint=out / ".partial" / f"{name}-seed_{seed}.pt",
            **how,
        )
        write_table(encode(table, generation).to_arrow(), target / "codes.parquet")

    ensure_directory(directory, made_of, fill)
    generation = open_generation(directory / "generation")
    return SidTable.from_arrow(read_parquet(directory / "codes.parquet")), generation.spec


def _raw(source: Source, tokenizer: str) -> RawItems:
    """Raw items of a source. Raises InputError where it has vectors alone."""
    if source.items is None:
        raise InputError(
            f"{tokenizer} reads raw items, and this source has vectors alone; open it with"
            " open_source(out, data)"
        )
    return raw_items(source.items)
