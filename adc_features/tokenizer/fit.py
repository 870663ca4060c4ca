"""Train a tokenizer: ADC-SID here, the others in `baselines`. Reads: EmbeddingTables of several
cut-offs. Writes: a Generation, quality report included.

Legend: B rows of a batch, P positions, K codes, D latent width.
"""

import copy
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation, check_generation_id, write_generation
from adc_features.codes.quality import quality_report
from adc_features.codes.reliability import fit_reliability
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import SidSpec
from adc_features.devices import resolve_device
from adc_features.errors import QualityError
from adc_features.tokenizer import baselines
from adc_features.tokenizer.encode import encode, one_thread
from adc_features.tokenizer.end_to_end.checkpoints import STATES
from adc_features.tokenizer.line import Line
from adc_features.tokenizer.model import AdcModel, AdcSettings
from adc_features.tokenizer.recipes import (
    RECIPES,
    Settings,
    adc,
    adc_norm,
    name_of,
    raw_gate,
    without_contrastive,
    without_controller,
    without_gate,
    without_sparsity,
)
from adc_features.tokenizer.training import Progress, train
from adc_features.tokenizer.union import RowUnion, check_tables

__all__ = [
    "RECIPES",
    "Settings",
    "adc",
    "adc_norm",
    "fit",
    "raw_gate",
    "without_contrastive",
    "without_controller",
    "without_gate",
    "without_sparsity",
]

logger = logging.getLogger(__name__)


# longer than a page by its docstring
def fit(
    tables: Sequence[EmbeddingTable],
    spec: SidSpec,
    *,
    settings: Settings,
    generation_id: str,
    directory: Path,
    seed: int,
    events: pa.Table | None = None,
    line: Line | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
) -> Generation:
    """Train a tokenizer on the rows of all cut-offs, freeze it, measure it and write a generation.

    Parameters
    ----------
    tables : sequence of EmbeddingTable
        The catalogue's vectors as of each cut-off, in any order; one training row for each (item,
        cut-off). Quality is measured on the newest. `unisid_e2e` is trained on the raw items that
        the newest table carries (`EmbeddingTable.raw`), and reads vectors of behaviour alone: which
        items are near at the oldest cut-off.
    spec : SidSpec
        Positions by modality, codes for each and the precision of weights. A baseline tokenizer
        takes as many positions over the same modalities and arranges them itself.
    settings : AdcSettings or a baseline's settings
        For example `adc()`, or another of `RECIPES`.
    generation_id : str
        Id of the new generation, for example "g1".
    directory : Path
        Where it is written, complete or not at all.
    seed : int
        The same seed gives the same codes.
    events : pyarrow.Table, optional
        Interactions, `user_id`, `item_id` and `time`, for tokenizers that learn from what users
        chose one after another (`etegrec_parallel`, `diger`). They read those before the oldest
        cut-off.
    line : Line, optional
        An older generation whose codes should keep their meaning (ADC-SID and posterior). A warm
        start trains a third of the steps, ADC-SID at a third of the rate.
    progress : callable, optional
        Called with ("fit", steps done, steps in all).
    checkpoint : Path, optional
        A file that ADC-SID writes every few hundred steps and `unisid_e2e` after every epoch (its
        frozen states lie beside it). A fit that was killed goes on from it to the same result; a
        checkpoint of other inputs or settings is ignored. The other tokenizers start again.
    device : {"cpu", "auto", "cuda"}
        Where ADC-SID is trained and measured; see `adc_features.devices`. The other tokenizers are
        trained on the CPU.

    Returns
    -------
    Generation
        As written, its quality report included.

    Raises
    ------
    InputError
        On vectors or a device that cannot be used, before any work.
    DeviceError
        When the device's memory does not hold a batch; nothing is written.
    ReliabilityError
        On a reliability signal that does not rise with interactions, before any work.
    QualityError
        When a codebook uses too few of its codes or, with `line`, more codes change than its
        budget allows; nothing is written.

    Examples
    --------
    >>> from dataclasses import replace
    >>> spec = SidSpec(content={"title": 1}, shared=1, behavior=1, codebook_size=4)
    >>> quick = replace(adc(), steps=20, warmup_steps=10, batch=64, min_utilisation=0.0)
    >>> generation = fit(
    ...     [vectors], spec, settings=quick, generation_id="g1", directory=folder / "g1", seed=0
    ... )
    >>> generation.id, sorted(path.name for path in (folder / "g1").iterdir())
    ('g1', ['manifest.json', 'quality.json', 'weights.safetensors'])

    Source
    ------
    ADC-SID, arXiv 2510.25622, Eq. 2-23; docs/method_notes.md states how its gaps are resolved. The
    baselines name their papers in `adc_features.tokenizer.baselines`.
    """
    check_generation_id(generation_id)
    check_tables(tables, spec)
    place = resolve_device(device)
    name, own_spec = name_of(settings), spec
    if not isinstance(settings, AdcSettings):
        own_spec = baselines.spec_of(spec, settings)
    if line is not None:
        line.check(own_spec, settings, tables, generation_id=generation_id)
    scale = fit_reliability(tables, mode=settings.reliability) if spec.behavior else None
    tables = sorted(tables, key=lambda t: t.as_of)
    newest = tables[-1]
    union = RowUnion(tables, spec, scale)
    warm = line if line is not None and line.warm else None
    if warm and isinstance(settings, AdcSettings):
        settings = _continued(settings)
        union.held = warm.codes(tables)
    trained = _trained(
        union,
        spec,
        own_spec,
        settings,
        seed=seed,
        events=events,
        line=warm,
        progress=progress,
        checkpoint=checkpoint,
        device=place.type,
    )
    draft = Generation(
        id=generation_id,
        tokenizer=name,
        spec=own_spec,
        settings={
            name: settings.to_dict(),
            "reliability": scale.to_dict() if scale else None,
            "cutoffs": [t.as_of.isoformat() for t in tables],
            "seed": seed,
            **({f"{name}_fit": dict(trained.kept)} if trained.kept else {}),
        },
        tensors=_stored(trained.network),
        quality={},
        trained_through=newest.as_of,
        codebook_hash="",
    )
    churn = None
    if line is not None:
        draft, churn = line.renamed(draft, newest)
    quality = {
        **quality_report(
            _measured(newest, draft, trained.network, device=place.type),
            newest.interaction_count,
            spec=own_spec,
        ),
        "reconstruction_1_minus_r2": _unexplained(trained.network, union, device=place),
        "training": trained.history,
        **trained.facts,
        "reliability_rank_correlation": scale.rank_correlation if scale else None,
        **({"churn": churn} if churn else {}),
    }
    _check_quality(quality, settings)
    generation = write_generation(
        directory,
        generation_id=generation_id,
        tokenizer=draft.tokenizer,
        spec=draft.spec,
        settings=draft.settings,
        tensors=draft.tensors,
        quality=quality,
        trained_through=draft.trained_through,
    )
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
        shutil.rmtree(Path(checkpoint).with_suffix(STATES), ignore_errors=True)
    return generation


def _stored(network: AdcModel | baselines.Network) -> dict[str, np.ndarray]:
    """Parameters by name; those that `freeze` rounded to float16 are stored so."""
    half = isinstance(network, baselines.UnisidNetwork)
    return {name: (t.half() if half else t).numpy() for name, t in network.state_dict().items()}


def _measured(
    newest: EmbeddingTable,
    draft: Generation,
    network: AdcModel | baselines.Network,
    *,
    device: str,
) -> SidTable:
    """The codes that quality is told of. A network that read raw items while it trained knows
    their codes, those that any other would give them.
    """
    known = network if isinstance(network, baselines.UnisidNetwork) else None
    return encode(newest, draft, network=known, device=device)


def _continued(settings: AdcSettings) -> AdcSettings:
    """A warm start trains a third of the steps at a third of the rate, on codes from the first."""
    return replace(
        settings,
        steps=max(settings.steps // 3, 1),
        warmup_steps=0,
        learning_rate=settings.learning_rate / 3,
    )


def _trained(
    union: RowUnion,
    spec: SidSpec,
    own_spec: SidSpec,
    settings: Settings,
    *,
    seed: int,
    events: pa.Table | None,
    line: Line | None,
    progress: Progress | None,
    checkpoint: Path | None,
    device: str,
) -> baselines.Trained:
    # the same codes on any number of cores; batches are too small to gain from more
    with one_thread():
        if not isinstance(settings, AdcSettings):
            start = line.tensors([t.as_of for t in union.tables]) if line else None
            return baselines.train(
                union,
                own_spec,
                settings,
                seed=seed,
                progress=progress,
                events=events,
                start=start,
                checkpoint=checkpoint,
            )
        return train(
            union,
            spec,
            settings,
            seed=seed,
            line=line,
            progress=progress,
            checkpoint=checkpoint,
            device=device,
        )


def _unexplained(
    network: AdcModel | baselines.Network, union: RowUnion, *, device: torch.device
) -> dict[str, float]:
    """1 - R2 of the newest vectors as decoded from codes and weights alone: over all standardised
    dimensions, and per modality.

    Only of what the tokenizer decodes: LETTER and DAS, for two, read content alone, and a
    tokenizer of raw items decodes no vector at all.
    """
    table, error = union.tables[-1], dict.fromkeys(network.widths, 0.0)
    if isinstance(network, baselines.UnisidNetwork):
        return {}
    adc = isinstance(network, AdcModel)
    network = copy.deepcopy(network).to(device) if adc else network
    with torch.no_grad():
        for rows in (r.on(device) if adc else r for r in union.newest()):
            for m, guess in network.reconstruct(rows).items():
                standard = network.standard_of(m)(rows.vectors[m], rows.present[m], rows.cutoff)
                error[m] += float((guess - standard)[rows.present[m]].double().square().sum())
    total = {
        m: (
            table.vectors[m][table.present[m]].var(axis=0, dtype=np.float64).sum()
            * table.present[m].sum()
        )
        for m in error
    }
    total = {m: float(t) / float(network.standard_of(m).spread[-1]) ** 2 for m, t in total.items()}
    return {
        "all": sum(error.values()) / sum(total.values()),
        **{m: error[m] / total[m] for m in error},
    }


def _check_quality(quality: dict[str, Any], s: Settings) -> None:
    for book in quality["codebooks"]:
        if book["utilisation"] < s.min_utilisation:
            raise QualityError(
                f"codebook {book['position']} ({book['modality']}) uses {book['utilisation']:.0%}"
                f" of its codes ({book['dead']} dead), expected at least {s.min_utilisation:.0%};"
                " lower codebook_size, train more steps or raise revive_share"
            )
