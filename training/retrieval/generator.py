"""Generate the next item by its codes, all positions at once. Reads: sequences, codes. Writes:
Generator.

One head a position gives the logits of its codes (RPG, arXiv 2506.05781; methods 4 and 12); an item
scores the weighted mean of its positions, and every item of the catalogue is scored, by one sparse
product: there is no order, no beam and no invalid item. Trained as RPG does, each position by its
own cross-entropy, or on the catalogue: by the cross-entropy of the item among all items, whose
scores the same codes make. A generator may have a row for each item besides; one without codes is
SASRec under full softmax.

Legend: P targets, L positions, K codes a position, N items, D dims, R packed rows, T places.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from adc_features.artifact import fresh_file
from adc_features.encoders.sasrec import (
    Batch,
    Block,
    Sequences,
    matrix_dtype,
    next_item_loss,
    packed_batches,
)
from adc_features.errors import ArtifactError, InputError
from adc_features.tokenizer.encode import one_thread

log = logging.getLogger(__name__)
Loss = Literal["positions", "catalogue"]
CHUNK = 64
"""Targets whose scores of all items are alive at once: the cache holds them (256 took 40 % longer
on Beauty).
"""
SCORED = 256
"""Users that are scored against the catalogue at once."""


@dataclass(frozen=True)
class Coded:
    """Codes of N items and how much each position counts: int [N, L] in -1..K-1, -1 = none; float32
    [N, L], >= 0.
    """

    codes: np.ndarray
    weights: np.ndarray
    codebook_size: int

    def __post_init__(self) -> None:
        if (
            self.codes.ndim != 2
            or self.codes.shape != self.weights.shape
            or not self.codes.shape[1]
        ):
            raise InputError(
                f"codes are {list(self.codes.shape)}, weights {list(self.weights.shape)}; expected"
                " both [N, L] with at least one position"
            )
        if (
            self.codes.min() < -1
            or self.codes.max() >= self.codebook_size
            or (self.weights < 0).any()
        ):
            raise InputError(
                f"codes range over {self.codes.min()}..{self.codes.max()}, weights from"
                f" {self.weights.min()}; expected -1..{self.codebook_size - 1} and 0 or more"
            )

    @property
    def fingerprint(self) -> str:
        """sha256 of codes and weights."""
        return hashlib.sha256(self.codes.tobytes() + self.weights.tobytes()).hexdigest()


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
    temperature: float = 0.03
    epochs: int = 10
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


class Catalogue(NamedTuple):
    """Which codes make which item, in both directions.

    flat: int64 [N, L], rows of an [L * K, P] matrix. share: float32 [N, L], of each position in its
    item's score, 0 without a code. items, item_share [N * L]: the items of each row and their
    shares, row by row from offsets [L * K] on.
    """

    flat: Tensor
    share: Tensor
    items: Tensor
    item_share: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, codes_NL: Tensor, weights_NL: Tensor, *, codebook_size: int) -> "Catalogue":
        positions = codes_NL.shape[1]
        weights = weights_NL * (codes_NL >= 0)
        share = weights / weights.sum(1, keepdim=True).clamp_min(1e-6)
        flat = codes_NL.clamp_min(0) + codebook_size * torch.arange(positions)
        order = flat.flatten().argsort(stable=True)
        counts = torch.bincount(flat.flatten(), minlength=positions * codebook_size)
        return cls(
            flat, share, order // positions, share.flatten()[order], counts.cumsum(0) - counts
        )

    def scores(self, values_PLK: Tensor) -> Tensor:
        """float32 [N, P]: the weighted mean of each item's codes. Items of the same codes and
        weights get the same bits.
        """
        return functional.embedding_bag(
            self.flat,
            values_PLK.flatten(1).T.contiguous(),
            per_sample_weights=self.share,
            mode="sum",
        )

    def gradient(self, d_scores_NP: Tensor) -> Tensor:
        """float32 [L * K, P]: the gradient of `values` given that of `scores`."""
        return functional.embedding_bag(
            self.items, d_scores_NP, self.offsets, per_sample_weights=self.item_share, mode="sum"
        )


class _CatalogueLoss(torch.autograd.Function):
    """Mean cross-entropy of P targets over the scores of all items; gradients come with the forward
    pass, chunk by chunk: no [N, P] matrix of a batch exists.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        logits_PLK: Tensor,
        states_PD: Tensor,
        table_ND: Tensor | None,
        targets_P: Tensor,
        catalogue: Catalogue,
    ) -> Tensor:
        d_logits, d_states = torch.empty_like(logits_PLK), torch.zeros_like(states_PD)
        d_table = None if table_ND is None else torch.zeros_like(table_ND)
        loss, dtype = logits_PLK.new_zeros(()), matrix_dtype()
        states, table = states_PD.to(dtype), None if table_ND is None else table_ND.to(dtype)
        for start in range(0, len(targets_P), CHUNK):
            part = slice(start, start + CHUNK)
            scores_NP = catalogue.scores(logits_PLK[part])
            if table is not None:
                scores_NP += table @ states[part].T
            target = targets_P[None, part]
            wanted, top = scores_NP.gather(0, target), scores_NP.amax(0)
            total = scores_NP.sub_(top).exp_().sum(0)
            loss += (total.log() + top - wanted[0]).sum()
            d_scores_NP = scores_NP.div_(total).scatter_add_(0, target, -torch.ones_like(wanted))
            d_logits[part] = catalogue.gradient(d_scores_NP).T.view_as(d_logits[part])
            if table is not None and d_table is not None:
                d_scores = d_scores_NP.to(dtype)
                d_states[part] = d_scores.T @ table
                d_table += d_scores @ states[part]
        ctx.save_for_backward(
            *(d if d is None else d / len(targets_P) for d in (d_logits, d_states, d_table))
        )
        return loss / len(targets_P)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if d is None else grads[0] * d for d in ctx.saved_tensors), None, None


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
        self.dropout = nn.Dropout(s.dropout)

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

    def forward(self, batch: Batch) -> Tensor:
        """float32 [R, T, D]: the state after each event, from that event and the user's earlier
        ones in the row.
        """
        places = functional.embedding(batch.places, self.places)
        x_RTD = self.dropout(self.item_vectors(batch.items) * self.settings.dim**0.5 + places)
        visible_RTT = (batch.users[:, :, None] == batch.users[:, None, :]).tril_()
        for block in self.blocks:
            x_RTD = block(x_RTD, visible_RTT)
        return self.norm(x_RTD)

    def code_logits(self, states_PD: Tensor) -> Tensor:
        """float32 [P, L, K]: cosine of each position's head, a residual SiLU layer, and its codes'
        vectors, over the temperature.
        """
        dtype = matrix_dtype()
        states = states_PD.to(dtype)
        heads_LPD = states + functional.silu(
            torch.einsum("pd,lde->lpe", states, self.heads.to(dtype))
        )
        heads_LPD, tokens_LKD = (
            functional.normalize(heads_LPD.float(), dim=-1),
            functional.normalize(self.tokens, dim=-1),
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
        """By positions, -sum_p w_p log P(c_p) / sum_p w_p (methods 12), averaged over the targets;
        else -log P(item).
        """
        if self.catalogue is None:
            assert self.table is not None
            return next_item_loss(states_PD, self.table, targets_P, "full_softmax")
        logits = self.code_logits(states_PD)
        if self.settings.loss == "catalogue":
            return _CatalogueLoss.apply(logits, states_PD, self.table, targets_P, self.catalogue)
        codes = self.codes_NL[targets_P].clamp_min(0)
        picked = torch.log_softmax(logits, -1).gather(2, codes[:, :, None])[:, :, 0]
        return -(self.catalogue.share[targets_P] * picked).sum(1).mean()


def train_generator(
    sequences: Sequences,
    coded: Coded | None,
    *,
    items: int,
    settings: GeneratorSettings,
    seed: int,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Generator, list[float]]:
    """A trained generator and its mean loss by epoch. One seed gives the same generator twice;
    trained on one thread.

    checkpoint: a file written after every epoch; a later call with the same fingerprint goes on
    from it to the same result, one of another is ignored.
    """
    s = settings
    with one_thread(), torch.random.fork_rng(devices=[]):  # dropout takes no generator
        torch.manual_seed(seed)
        model = Generator(coded, items=items, settings=s)
        rows = s.batch // s.length
        steps = s.epochs * -(-sequences.transitions // (s.length * rows))
        named = dict(model.named_parameters())
        tables = [named.pop(name) for name in ("table", "tokens") if name in named]
        groups = [
            {"params": tables, "weight_decay": s.decay},
            {"params": list(named.values()), "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=s.learning_rate, betas=(0.9, 0.98), fused=True)
        warm = max(1, steps // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / warm, max(steps - step, 0) / max(1, steps - warm)),
        )
        curve: list[float] = []
        carried: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
        if (
            checkpoint is not None
            and checkpoint.is_file()
            and (saved := torch.load(checkpoint, weights_only=True))["fingerprint"] == fingerprint
        ):
            for name, part in carried.items():
                part.load_state_dict(saved[name])
            curve = saved["curve"]
            log.info("stage=generator resumed_at_epoch=%d of checkpoint=%s", len(curve), checkpoint)
        for epoch in range(len(curve), s.epochs):
            # chance is drawn anew each epoch, so a checkpoint carries none
            rng = np.random.default_rng([seed, epoch])
            torch.manual_seed(int(rng.integers(2**62)))
            losses = []
            for batch in packed_batches(sequences, length=s.length, rows=rows, rng=rng):
                wanted = batch.targets >= 0
                loss = model.loss(model(batch)[wanted], batch.targets[wanted])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
            curve.append(float(np.mean(losses)))
            if checkpoint is not None:
                _write_checkpoint(
                    checkpoint,
                    {name: part.state_dict() for name, part in carried.items()}
                    | {"fingerprint": fingerprint, "curve": curve},
                )
            if progress is not None:
                progress(epoch + 1, s.epochs)
    return model.eval().requires_grad_(False), curve


def _write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh_file(path) as file:
        torch.save(state, file)


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


@torch.no_grad()
def last_states(model: Generator, histories: Sequences) -> Tensor:
    """float32 [U, D]: the state after each history, from its newest T events."""
    counts = np.minimum(np.diff(histories.ends, prepend=0), model.settings.length)
    states = torch.empty(len(counts), model.settings.dim)
    order = np.argsort(counts, kind="stable")  # near lengths together: little padding
    for users in np.array_split(order, -(-len(order) // SCORED)):
        width = int(counts[users].max())
        places = np.arange(width) - (width - counts[users])[:, None]  # padded on the left
        real = places >= 0
        items = torch.from_numpy(
            np.where(
                real,
                histories.items[
                    np.where(real, histories.ends[users, None] - width + np.arange(width), 0)
                ],
                0,
            )
        )
        rows = Batch(
            items, items, torch.from_numpy(places.clip(0)), torch.from_numpy(np.where(real, 0, -1))
        )
        states[torch.from_numpy(users)] = model(rows)[:, -1]
    return states


class Voice(NamedTuple):
    """A generator and its state for each user, float32 [U, D]."""

    model: Generator
    states: Tensor

    @classmethod
    def of(cls, model: Generator, histories: Sequences) -> "Voice":
        return cls(model, last_states(model, histories))


@torch.no_grad()
def ranks(
    voices: Sequence[Voice],
    targets: np.ndarray,
    histories: Sequences,
    *,
    mixes: Sequence[Sequence[float]] = ((1.0,),),
) -> tuple[np.ndarray, np.ndarray]:
    """(items that score above the target, items that score the same, itself among them), int64 [M,
    U] each.

    mixes: for each of M lists, how much every voice's log P(item) counts in the score. Items of a
    user's history are left out, unless it is the target that came before.
    """
    above, tied = (np.empty((len(mixes), len(targets)), np.int64) for _ in range(2))
    starts = np.concatenate([[0], histories.ends])
    for first in range(0, len(targets), SCORED):
        part = slice(first, min(first + SCORED, len(targets)))
        size = part.stop - first
        parts = [v.model.scores(v.states[part]) for v in voices]
        if len(parts) > 1:
            parts = [torch.log_softmax(scores_NP, 0) for scores_NP in parts]
        seen = torch.from_numpy(histories.items[starts[first] : starts[part.stop]])
        column = torch.from_numpy(
            np.repeat(np.arange(size), np.diff(starts[first : part.stop + 1]))
        )
        target = torch.from_numpy(targets[part]), torch.arange(size)
        for row, mix in enumerate(mixes):
            scores_NP = sum(
                (share * scores for share, scores in zip(mix[1:], parts[1:], strict=True)),
                mix[0] * parts[0],
            )
            wanted = scores_NP[target].clone()
            scores_NP[seen, column] = -torch.inf
            scores_NP[target] = wanted
            above[row, part], tied[row, part] = (
                (scores_NP > wanted).sum(0).numpy(),
                (scores_NP == wanted).sum(0).numpy(),
            )
    return above, tied
