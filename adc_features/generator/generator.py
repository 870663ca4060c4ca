"""Generate the next item by its codes, all positions at once. Reads: sequences, codes. Writes:
Generator.

One head a position gives the logits of its codes (RPG, arXiv 2506.05781; method notes: Generation
from codes); an item scores the weighted mean of its positions, and every item of the catalogue is
scored, by one sparse product: there is no order, no beam and no invalid item. Trained as RPG does,
each position by its own cross-entropy, or on the catalogue: by the cross-entropy of the item among
all items, whose scores the same codes make. A generator may have a row for each item besides; one
without codes is SASRec under full softmax.

Legend: P targets, L positions, K codes a position, N items, D dims, R packed rows, T places.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from adc_features.encoders.sasrec import Batch, Block, Dropout, next_item_loss, product_dtype
from adc_features.errors import ArtifactError, InputError
from adc_features.generator.catalogue import Catalogue, CatalogueLoss, Coded

Loss = Literal["positions", "catalogue"]


@dataclass(frozen=True)
class GeneratorSettings:
    """How a generator is built and trained; the defaults were chosen on Beauty's validation items.

    loss: of each position, or of the item in the catalogue. items: with a row for each item. dim:
    D. length: T, places of a packed row, the longest history. batch: targets a step. temperature:
    of the cosine of head and code. learning_rate: its peak; it rises over the first tenth of the
    steps and falls to 0. decay: AdamW's, of code vectors and item rows.
    """

    loss: Loss = "catalogue"
    items: bool = False
    dim: int = 128
    blocks: int = 2
    length: int = 50
    batch: int = 512
    dropout: float = 0.5
    temperature: float = 0.02
    epochs: int = 16
    learning_rate: float = 3e-3
    decay: float = 0.0

    def __post_init__(self) -> None:
        if (
            min(self.dim, self.blocks, self.length, self.epochs) < 1
            or self.batch < self.length
            or not self.temperature > 0
        ):
            raise InputError(
                f"generator settings are {asdict(self)}; expected sizes of at least 1, batch >="
                " length and a temperature above 0"
            )


def settings_of(*, loss: str, epochs: int | None) -> GeneratorSettings:
    """The defaults with what was asked for besides; InputError for another loss."""
    if loss not in get_args(Loss):
        raise InputError(f"loss is {loss!r}; expected one of {', '.join(get_args(Loss))}")
    settings = GeneratorSettings(loss=cast(Loss, loss))
    return settings if epochs is None else replace(settings, epochs=epochs)


class Generator(nn.Module):
    """States of packed rows, and scores of all items for a state. coded: None for items alone."""

    codes_NL: Tensor
    weights_NL: Tensor

    def __init__(self, coded: Coded | None, *, items: int, settings: GeneratorSettings) -> None:
        super().__init__()
        s = self.settings = settings
        if (coded is None and not s.items) or (
            coded is not None and s.items and s.loss == "positions"
        ):
            raise InputError(
                f"loss is {s.loss!r}, items {s.items}, codes {'given' if coded else 'none'};"
                " expected codes or items, and the catalogue's loss where both are"
            )
        none = np.zeros((items, 0))
        self.register_buffer(
            "codes_NL", torch.from_numpy((none if coded is None else coded.codes).astype(np.int64))
        )
        self.register_buffer(
            "weights_NL",
            torch.from_numpy((none if coded is None else coded.weights).astype(np.float32)),
        )
        self.catalogue = None
        if coded is not None:
            positions, self.codebook_size = coded.codes.shape[1], coded.codebook_size
            self.catalogue = Catalogue.of(
                self.codes_NL, self.weights_NL, codebook_size=coded.codebook_size
            )
            self.tokens = nn.Parameter(torch.randn(positions, coded.codebook_size, s.dim) * 0.02)
            self.heads = nn.Parameter(torch.randn(positions, s.dim, s.dim) * s.dim**-0.5)
        self.table = nn.Parameter(torch.randn(items, s.dim) * 0.02) if s.items else None
        self.places = nn.Parameter(torch.randn(s.length, s.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(s.dim, s.dropout) for _ in range(s.blocks))
        self.norm = nn.LayerNorm(s.dim)
        self.dropout = Dropout(s.dropout)

    def on(self, device: torch.device) -> Self:
        """Moved to a device, with the codes of the catalogue."""
        if self.catalogue is not None:
            self.catalogue = Catalogue(*(part.to(device) for part in self.catalogue))
        return self.to(device)

    def item_vectors(self, items: Tensor) -> Tensor:
        """float32 [..., D]: the weighted mean of the vectors of an item's codes, plus its own row
        where there is one.
        """
        vectors = torch.zeros(()) if self.table is None else functional.embedding(items, self.table)
        if self.catalogue is not None:
            flat, share = (
                part[items].flatten(0, -2) for part in (self.catalogue.flat, self.catalogue.share)
            )
            bags = functional.embedding_bag(
                flat, self.tokens.flatten(0, 1), per_sample_weights=share, mode="sum"
            )
            vectors = vectors + bags.view(*items.shape, -1)
        return vectors

    def recode(self, codes_NL: Tensor) -> None:
        """Other codes of the items, int64 [N, L], of the same positions; the weights stay."""
        self.codes_NL.copy_(codes_NL)
        self.catalogue = Catalogue.of(
            self.codes_NL, self.weights_NL, codebook_size=self.codebook_size
        )

    def forward(self, batch: Batch, vectors_RTD: Tensor | None = None) -> Tensor:
        """float32 [R, T, D]: the state after each event, from that event and the user's earlier
        ones in the row. vectors_RTD: of the events' items, in the place of `item_vectors`.
        """
        places = functional.embedding(batch.places, self.places)
        if vectors_RTD is None:
            vectors_RTD = self.item_vectors(batch.items)
        x_RTD = self.dropout(vectors_RTD * self.settings.dim**0.5 + places)
        visible_RTT = (batch.users[:, :, None] == batch.users[:, None, :]).tril_()
        for block in self.blocks:
            x_RTD = block(x_RTD, visible_RTT)
        return self.norm(x_RTD)

    def code_logits(self, states_PD: Tensor, tokens_LKD: Tensor | None = None) -> Tensor:
        """float32 [P, L, K]: cosine of each position's head, a residual SiLU layer, and its codes'
        vectors, over the temperature. tokens_LKD: those vectors, in the place of the generator's.
        """
        dtype = product_dtype(states_PD.device)
        states = states_PD.to(dtype)
        heads_LPD = states + functional.silu(
            torch.einsum("pd,lde->lpe", states, self.heads.to(dtype))
        )
        heads_LPD, tokens_LKD = (
            functional.normalize(heads_LPD.float(), dim=-1),
            functional.normalize(self.tokens if tokens_LKD is None else tokens_LKD, dim=-1),
        )
        cosine = torch.bmm(heads_LPD.to(dtype), tokens_LKD.to(dtype).transpose(1, 2)).float()
        return cosine.transpose(0, 1) / self.settings.temperature

    def scores(self, states_PD: Tensor) -> Tensor:
        """float32 [N, P], highest best.

        Trained by positions: sum_p w_p log P(c_p) / sum_p w_p, w the weights, over the positions
        where the item has a code. Trained on the catalogue: the same mean of the logits, plus the
        product of state and item row; log P(item) up to a constant of the state.
        """
        scores = torch.zeros(())
        if self.catalogue is not None:
            logits = self.code_logits(states_PD)
            scores = scores + self.catalogue.scores(
                torch.log_softmax(logits, -1) if self.settings.loss == "positions" else logits
            )
        return scores if self.table is None else scores + self.table @ states_PD.T

    def loss(self, states_PD: Tensor, targets_P: Tensor) -> Tensor:
        """By positions, -sum_p w_p log P(c_p) / sum_p w_p, averaged over the targets; else
        -log P(item) (method notes: Generation from codes).
        """
        if self.catalogue is None:
            assert self.table is not None
            return next_item_loss(states_PD, self.table, targets_P, "full_softmax")
        logits = self.code_logits(states_PD)
        if self.settings.loss == "catalogue":
            return CatalogueLoss.apply(logits, states_PD, self.table, targets_P, self.catalogue)
        codes = self.codes_NL[targets_P].clamp_min(0)
        picked = torch.log_softmax(logits, -1).gather(2, codes[:, :, None])[:, :, 0]
        return -(self.catalogue.share[targets_P] * picked).sum(1).mean()


def save_generator(model: Generator, path: Path) -> None:
    """Parameters, codes and weights as safetensors: all that scoring needs besides the settings."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


def load_generator(path: Path, settings: GeneratorSettings) -> Generator:
    """The inverse of `save_generator`. Raises ArtifactError when the file is not of these
    settings.
    """
    from safetensors.torch import load_file

    tensors = load_file(path)
    codes = tensors["codes_NL"].numpy()
    coded = (
        Coded(codes, tensors["weights_NL"].numpy(), tensors["tokens"].shape[1])
        if codes.shape[1]
        else None
    )
    with torch.random.fork_rng(devices=[]):
        model = Generator(coded, items=len(codes), settings=settings)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ArtifactError(
            f"{path} does not hold a generator of {asdict(settings)} ({error}); train it again"
        ) from error
    return model.eval().requires_grad_(False)
