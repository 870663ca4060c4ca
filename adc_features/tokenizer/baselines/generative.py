"""What tokenizers that learn from a generator share. Reads: interactions, latents. Writes:
sequences, distances to codewords.

Legend: N items of the oldest cut-off, U items of a batch, L positions, K codes, D latent width.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from adc_features.codes.embeddings import id_array
from adc_features.encoders.event_log import check_trainable, event_log, sequences_of
from adc_features.encoders.sasrec import Batch, Sequences
from adc_features.errors import InputError
from adc_features.generator.catalogue import Coded
from adc_features.generator.generator import Generator, GeneratorSettings
from adc_features.tokenizer.baselines.additive import AdditiveCodebooks, Quantiser
from adc_features.tokenizer.baselines.rq_vae import RqVaeSettings
from adc_features.tokenizer.union import BLOCK, RowUnion


@dataclass(frozen=True)
class GenerativeSettings(RqVaeSettings):
    """An RQ-VAE, and the generator that it learns from after it was trained.

    Generator: width and blocks, places of a history, targets a step, dropout; generator_rate of
    AdamW, codes_rate that of what makes the codes.
    """

    width: int = 64
    blocks: int = 2
    history: int = 50
    targets: int = 512
    dropout: float = 0.3
    generator_rate: float = 3e-3
    codes_rate: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.generator()

    def generator(self) -> GeneratorSettings:
        """The generator's own settings: each position by its own cross-entropy."""
        return GeneratorSettings(
            loss="positions",
            dim=self.width,
            blocks=self.blocks,
            length=self.history,
            batch=self.targets,
            dropout=self.dropout,
            temperature=0.03,  # as measured; the generator's own was chosen for another loss
        )

    @property
    def rows(self) -> int:
        """Packed rows of a step."""
        return self.targets // self.history


def histories(union: RowUnion, events: pa.Table | None, *, tokenizer: str) -> Sequences:
    """What users chose before the oldest cut-off, as rows of its table; items that have no vector
    there are left out. Later events are not read: codes of earlier snapshots must not know them.

    Raises InputError where there are no interactions, or too few.
    """
    if events is None:
        raise InputError(
            f"{tokenizer} learns from what users chose one after another, and has vectors alone;"
            " give fit(..., events=interactions) with the columns user_id, item_id and time"
        )
    table = union.tables[0]
    known = table.item_ids[np.any([table.present[m] for m in union.modalities], axis=0)]
    if "item_id" in events.column_names:  # else event_log says what is missing
        events = events.filter(pa.array(np.isin(id_array(events["item_id"]), known)))
    every = event_log(events, table.item_ids)
    past = every.before(table.as_of)
    check_trainable(past, table.as_of, every)
    return sequences_of(past, np.arange(len(table)))


def latents(part: Quantiser, union: RowUnion) -> Tensor:
    """The latents of all items of the oldest cut-off, float32 [N, D]."""
    count = len(union.tables[0])
    with torch.no_grad():
        return torch.cat(
            [
                part.latent(union.take(np.arange(i, min(i + BLOCK, count))))
                for i in range(0, count, BLOCK)
            ]
        )


def nearest_codes(part: Quantiser, latent_ND: Tensor) -> Tensor:
    """The codes of these latents as they are encoded, int64 [N, L], in blocks that fit the
    memory.
    """
    with torch.no_grad():
        return torch.cat([part.books.lookup(block) for block in latent_ND.split(BLOCK)])


def generator_on(codes_NL: Tensor, codes: int, s: GenerativeSettings) -> Generator:
    """A new generator of items that have these codes."""
    coded = codes_NL.numpy()
    return Generator(
        Coded(coded, np.ones(coded.shape, np.float32), codes),
        items=len(coded),
        settings=s.generator(),
    )


class Targets(NamedTuple):
    """What a batch is to find. wanted: bool [R, T], places with a target; items: int64 [P]. unique:
    int64 [U], each once, in order; first: int64 [U], where among the P each stands first.
    """

    wanted: Tensor
    items: Tensor
    unique: Tensor
    first: Tensor


def targets_of(batch: Batch) -> Targets:
    """The targets of packed rows."""
    wanted = batch.targets >= 0
    items = batch.targets[wanted]
    unique, first = np.unique(items.numpy(), return_index=True)
    return Targets(wanted, items, torch.from_numpy(unique), torch.from_numpy(first))


def distances(books: AdditiveCodebooks, vectors_UD: Tensor) -> Tensor:
    """Squared distance of what is left at each position to all its codewords, float32 [U, L, K].
    What is left follows from the nearest codewords before, which take no gradient from it.
    """
    words_ULD = books.codeword(books.lookup(vectors_UD.detach())).detach()
    left_ULD = vectors_UD[:, None] - (words_ULD.cumsum(1) - words_ULD)
    inner_ULK = torch.einsum("uld,lkd->ulk", left_ULD, books.codewords)
    square_LK = books.codewords.square().sum(-1)
    return left_ULD.square().sum(-1, keepdim=True) - 2 * inner_ULK + square_LK


def used(codes_NL: Tensor, codes: int) -> float:
    """The mean share over positions of the codes that some item has."""
    return float(np.mean([len(column.unique()) / codes for column in codes_NL.T]))
