"""Give items their codes and weights. Reads: EmbeddingTable, Generation. Writes: SidTable.

Legend: B rows, L positions.
"""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Protocol

import numpy as np
import torch

from adc_features.clock import instant
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation
from adc_features.codes.quality import collision_counts
from adc_features.codes.reliability import ReliabilityScale
from adc_features.codes.rows import SECOND_FEATURES
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import BEHAVIOR, NO_CODE
from adc_features.devices import resolve_device
from adc_features.errors import GenerationMismatch, InputError
from adc_features.tokenizer import baselines
from adc_features.tokenizer.alignment import strength
from adc_features.tokenizer.model import AdcModel, Rows, load

logger = logging.getLogger(__name__)

BLOCK = 1024
"""Rows that go through the network at once, always: a matrix product of one shape gives a row the
same bits wherever it stands, so an item alone (padded to a block) equals the item in a batch, and a
code never flips on a near tie.
"""
GPU_BLOCK = 65_536
"""The same on a GPU, which would wait for its small products."""


# longer than a page by its docstring
def encode(
    items: EmbeddingTable,
    generation: Generation,
    *,
    previous: SidTable | None = None,
    network: AdcModel | baselines.Network | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    device: str = "cpu",
) -> SidTable:
    """Codes and weights of items in the vocabulary of a generation.

    Parameters
    ----------
    items : EmbeddingTable
        N items with their vectors and interaction counts as of `items.as_of` (exclusive), and with
        their raw columns for a generation of `unisid_e2e`, which reads nothing else.
    generation : Generation
        The frozen tokenizer.
    previous : SidTable, optional
        The snapshot before this one, of this generation or of the one it is aligned with. An item
        that has a code there keeps it until another codeword is nearer by more than the
        generation's `hysteresis`, in cosine, so that codes change when behaviour does and not
        because a vector lies at a border. `posterior` exchanges a code where that saves more
        than its `slack`. Other tokenizers hold nothing: in a residual code each level reads what
        the one before left.
    network : AdcModel or Network, optional
        What `read` made of the generation, for who encodes often.
    progress : callable, optional
        Called with ("encode", items done, items in all).
    device : {"cpu", "auto", "cuda"}
        Where ADC-SID encodes; see `adc_features.devices`. The other tokenizers encode on the CPU.

    Returns
    -------
    SidTable
        In the order of `items`; a function of (previous, items) alone. Where a position's modality
        is absent the code is -1 and the weight 0. An item without behaviour is cold: x = 0,
        w = w(0) (method notes: Items without behaviour). Weights are 1 for shared positions, the
        softmax gate for content, and R over its frozen mean, clipped to [0, 4], for behaviour
        (method notes: Exported weights); 1 wherever a baseline tokenizer has a code; under
        `posterior` the probability that the code is right, which that of a held code is as well,
        and x is the estimated share of signal in the item's behaviour. `posterior_second` tells
        the second code of each position and its probability too. Weights are rounded once, to
        `spec.weight_dtype`. `collision_count` counts within `items`.

    Raises
    ------
    InputError
        When a modality is missing or of another width, or `previous` is not earlier.
    GenerationMismatch
        When `previous` is of a generation that this one is not aligned with.

    Notes
    -----
    Behaviour is centred and scaled as at the newest cut-off
    of the fit that is not after `items.as_of`.

    Examples
    --------
    >>> from adc_features.codes import open_generation
    >>> generation = open_generation(fitted)
    >>> table = encode(vectors, generation)
    >>> table.sid.shape, bool((table.sid >= 0).all()), table.as_of == vectors.as_of
    ((300, 3), True, True)

    Source
    ------
    ADC-SID, arXiv 2510.25622, Eq. 5 and 7-9 for codes, Eq. 15-17 and 22 for weights;
    docs/method_notes.md, "Exported weights".
    """
    table = coded(
        items, generation, previous=previous, network=network, progress=progress, device=device
    )
    logger.info(
        "stage=encode generation=%s items=%d cold=%d",
        generation.id,
        len(table),
        table.is_cold.sum(),
    )
    return table


def coded(
    items: EmbeddingTable,
    generation: Generation,
    *,
    previous: SidTable | None = None,
    network: AdcModel | baselines.Network | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    device: str = "cpu",
) -> SidTable:
    """What `encode` returns, without a line in the log: for who encodes a catalogue in pieces."""
    spec, model = generation.spec, network if network is not None else read(generation)
    check_widths(items, model)
    place = resolve_device(device)
    if isinstance(model, AdcModel) and place.type != "cpu":
        model, size = copy.deepcopy(model).to(place), GPU_BLOCK
    else:
        place, size = torch.device("cpu"), BLOCK
    held = _held(items, generation, previous)
    signal = reliability(items, generation)
    cutoff = _cutoff_of(generation, items.as_of)
    sid = np.full((len(items), spec.length), NO_CODE, np.int32)
    weight = np.zeros((len(items), spec.length), np.float32)
    tells = isinstance(model, baselines.PosteriorNetwork) and model.settings.tells_second
    second = (np.full_like(sid, NO_CODE), np.zeros_like(weight)) if tells else ()
    x, alignment = (np.zeros(len(items), np.float32) for _ in range(2))
    if isinstance(model, baselines.UnisidNetwork):
        with one_thread():
            named = None if progress is None else partial(progress, "encode")
            sid, _ = model.read(items.raw, names=items.item_ids, progress=named)
        weight, x = (sid != NO_CODE).astype(np.float32), signal

    def fill(start: int) -> int:
        part = slice(start, min(start + size, len(items)))
        with torch.inference_mode():
            held_BL = None if held is None else _padded(held, part, size).to(place)
            rows = _block(items, signal, part, model, cutoff=cutoff, size=size).on(place)
            found = [made[: part.stop - start].cpu() for made in _tokens(model, rows, held_BL)]
        for array, made in zip((sid, weight, x, alignment, *second), found, strict=True):
            array[part] = made
        return part.stop

    blocks = range(0, len(items) if model.widths else 0, size)
    for done in _on_every_core(fill, blocks) if place.type == "cpu" else map(fill, blocks):
        if progress is not None:
            progress("encode", done, len(items))
    for told in (weight, *second[1:]):
        told[:] = told.astype(spec.weight_dtype)
    return SidTable(
        item_ids=items.item_ids,
        sid=sid,
        sid_weight=weight,
        reliability=x,
        alignment=alignment,
        is_cold=~items.present[BEHAVIOR] if spec.behavior else items.interaction_count == 0,
        collision_count=collision_counts(sid, codebook_size=spec.codebook_size),
        found=np.ones(len(items), bool),
        generation=generation.id,
        codebook_size=spec.codebook_size,
        as_of=items.as_of,
        **dict(zip(SECOND_FEATURES.names, second, strict=False)),
    )


def _cutoff_of(generation: Generation, as_of: datetime) -> int:
    """The number of the newest cut-off of the fit that is not after `as_of`; 0 before the first."""
    known = np.array(
        [instant(datetime.fromisoformat(text)) for text in generation.settings["cutoffs"]]
    )
    return max(int(np.searchsorted(known, instant(as_of), side="right")) - 1, 0)


def reliability(items: EmbeddingTable, generation: Generation) -> np.ndarray:
    """x of the items under the generation's frozen scale, float32 [N] in [0, 1]; 0 for a spec
    without behaviour.
    """
    if not generation.spec.behavior:
        return np.zeros(len(items), np.float32)
    return ReliabilityScale.from_dict(generation.settings["reliability"])(items)


def read(generation: Generation) -> AdcModel | baselines.Network:
    """The frozen network of a generation, by the tokenizer that wrote it. Raises ArtifactError when
    there is none of that name.
    """
    return load(generation) if generation.tokenizer == "adc" else baselines.load(generation)


def check_widths(items: EmbeddingTable, model: AdcModel | baselines.Network) -> None:
    """Raise InputError unless `items` has every modality that the network reads, in the width it
    was trained on.
    """
    for modality, width in model.widths.items():
        if items.width(modality) != width:
            raise InputError(
                f"modality {modality!r} has width {items.width(modality)}, the generation was"
                f" fitted on {width}; embed with the same encoder"
            )


def encode_series(
    tables: Iterable[EmbeddingTable],
    generation: Generation,
    *,
    held_by: Mapping[datetime, SidTable] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[SidTable]:
    """Snapshots of several cut-offs, each of which holds on to the codes of the one before.

    Parameters
    ----------
    tables : iterable of EmbeddingTable
        The catalogue's vectors as of each cut-off, oldest first.
    generation : Generation
        The frozen tokenizer.
    held_by : mapping of datetime to SidTable, optional
        As of a cut-off (aware), the snapshot that holds its codes in the place of the one before:
        what the generation's parent served then.
    progress : callable, optional
        Called with ("encode", items done, items in all) for each table.

    Yields
    ------
    SidTable
        One for each table, in their order, as `encode` returns it.

    Raises
    ------
    InputError, GenerationMismatch
        As `encode`.

    Examples
    --------
    >>> from adc_features.codes import open_generation
    >>> generation = open_generation(fitted)
    >>> [table.as_of.isoformat() for table in encode_series([vectors], generation)]
    ['2024-01-01T00:00:00+00:00']

    Source
    ------
    ADC-SID, arXiv 2510.25622; docs/method_notes.md, "Several cut-offs".
    """
    previous: SidTable | None = None
    network = read(generation)
    for table in tables:
        previous = encode(
            table,
            generation,
            network=network,
            previous=(held_by or {}).get(table.as_of, previous),
            progress=progress,
        )
        yield previous


def _held(
    items: EmbeddingTable, generation: Generation, previous: SidTable | None
) -> np.ndarray | None:
    """The codes that the items had in `previous`, int64 [N, L], -1 where none."""
    if previous is None:
        return None
    check_previous(previous, generation, items.as_of)
    return previous.lookup(items.item_ids).sid.astype(np.int64)


class Dated(Protocol):
    """What tells whose codes a snapshot holds, and as of when."""

    @property
    def generation(self) -> str: ...

    @property
    def as_of(self) -> datetime: ...


def check_previous(previous: Dated, generation: Generation, as_of: datetime) -> None:
    """Raise GenerationMismatch or InputError unless items as of this time can hold on to the codes
    of `previous`.
    """
    parent = (generation.settings.get("aligned") or {}).get("parent")
    if previous.generation not in (generation.id, parent):
        raise GenerationMismatch(
            f"the previous snapshot is of generation {previous.generation!r}, this encodes with"
            f" {generation.id!r}; give one of the same, or of the one it is aligned with"
        )
    if previous.as_of > as_of or (previous.as_of == as_of and previous.generation == generation.id):
        raise InputError(
            f"the previous snapshot is as of {previous.as_of.isoformat()}, the items as of"
            f" {as_of.isoformat()}; encode in order of time"
        )


def _tokens(
    model: AdcModel | baselines.Network, rows: Rows, held_BL: torch.Tensor | None
) -> tuple[torch.Tensor, ...]:
    """Codes [B, L], exported weights [B, L], x [B] and alignment strength [B] of one block; where
    second codes are told, these and their probabilities [B, L].
    """
    none = torch.zeros(len(rows.x), device=rows.x.device)
    if isinstance(model, baselines.PosteriorNetwork):
        codes, weight, x, *second = model.tokens(rows, held_BL)
        return codes, weight, x, none, *(told for told in second if told is not None)
    if not isinstance(model, AdcModel):
        assert not isinstance(model, baselines.UnisidNetwork), "it reads no vectors"
        codes, known = model.codes(rows)
        return torch.where(known, codes, NO_CODE), known.float(), rows.x, none
    encoded, behavior = model.encode(rows), model.spec.behavior
    codes = torch.where(
        encoded.known_BP,
        model.codebooks.lookup(
            encoded.latent_BPD, held_BP=held_BL, margin=model.settings.hysteresis
        ),
        NO_CODE,
    )
    if not behavior:
        return codes, encoded.weight_BP, rows.x, none
    weight = torch.cat(
        [
            encoded.weight_BP[:, :-behavior],
            model.importance.normalised(encoded.weight_BP[:, -behavior:]),
        ],
        dim=1,
    )
    return codes, weight, rows.x, strength(rows.x, model.settings.alpha, model.settings.beta)


def _on_every_core(work: Callable[[int], int], jobs: range) -> Iterator[int]:
    """work(job) in order, as many at a time as torch may use threads, each on one thread.

    torch's own threads inside such small products wait for each other more than they compute: on
    two busy cores 1M items took 47 s with them, 20 s with a block a core.
    """
    threads = torch.get_num_threads()
    with (
        one_thread(),
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        yield from pool.map(work, jobs)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread inside the block: sums in one order whatever the machine, and no waiting
    between threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _block(
    items: EmbeddingTable,
    x: np.ndarray,
    part: slice,
    model: AdcModel | baselines.Network,
    *,
    cutoff: int,
    size: int,
) -> Rows:
    """Rows `part`, padded with absent rows to `size`."""
    vectors, present = (
        {m: _padded(items.vectors[m], part, size) for m in model.widths},
        {m: _padded(items.present[m], part, size) for m in model.widths},
    )
    return Rows(vectors, present, _padded(x, part, size), torch.full((size,), cutoff))


def _padded(array: np.ndarray, part: slice, size: int) -> torch.Tensor:
    block = np.zeros((size, *array.shape[1:]), array.dtype)
    block[: part.stop - part.start] = array[part]
    return torch.from_numpy(block)
