"""One training of SASRec, from scratch or from earlier parameters. Reads: Evidence. Writes:
Learned.

Every process of a shared training makes all batches and takes its rows of each: attention stays
within a row, so only gradients are added up. Legend: K items known at a cut-off, D dims, C axes of
content.
"""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adc_features.devices import memory_of, resolve_device, seeded
from adc_features.encoders.behavior_settings import BehaviorSettings, ContentSettings
from adc_features.encoders.content_axes import content_axes
from adc_features.encoders.event_log import sequences_of
from adc_features.encoders.evidence import Evidence, Learned, Progress, Start
from adc_features.encoders.sampled import (
    BETAS,
    Negatives,
    Sampled,
    TableDescent,
    sampled_loss,
)
from adc_features.encoders.sasrec import (
    Batch,
    SASRec,
    Sequences,
    drop_of,
    next_item_loss,
    packed_batches,
)
from adc_features.processes import add_gradients, together
from adc_features.ranks import Ranks

logger = logging.getLogger(__name__)


def train(
    evidence: Evidence,
    start: Start | None,
    *,
    settings: BehaviorSettings,
    seed: tuple[int, int],
    label: str,
    progress: Progress | None,
    device: str = "cpu",
) -> Learned:
    """SASRec's own table: one free vector an item."""
    model = together(
        _trained,
        _shared(evidence, start, settings=settings, seed=seed, device=device),
        {"label": label, "progress": progress},
    )
    return Learned(model.table.detach().numpy(), _arrays(model))


def train_with_content(
    evidence: Evidence,
    start: Start | None,
    *,
    settings: ContentSettings,
    seed: tuple[int, int],
    label: str,
    progress: Progress | None,
    device: str = "cpu",
) -> Learned:
    """SASRec of which an item's vector is a linear map of its content plus a part of its own.

    The own part decays at `own_decay` by the number of the item's events: the map says what an item
    is until its events say it. The axes of content are those of the first cut-off.
    """
    axes = content_axes(
        evidence.content, width=settings.content_width, earlier=start and start.parameters
    )
    decay = settings.own_decay / torch.from_numpy(evidence.counts.astype(np.float32))
    model = together(
        _trained,
        _shared(evidence, start, settings=settings.sasrec, seed=seed, device=device)
        | {"content": torch.from_numpy(axes.of(evidence.content)), "own_decay_K": decay},
        {"label": label, "progress": progress},
    )
    return Learned(model.items().detach().numpy(), _arrays(model) | axes.arrays())


def _shared(
    evidence: Evidence,
    start: Start | None,
    *,
    settings: BehaviorSettings,
    seed: tuple[int, int],
    device: str,
) -> dict[str, Any]:
    """What every process that takes part is told."""
    return {
        "sequences": sequences_of(evidence.events, evidence.known),
        "counts": evidence.counts,
        "start": None if start is None else _tensors(start),
        "settings": settings,
        "seed": seed,
        "device": resolve_device(device).type,
    }


def _tensors(start: Start) -> tuple[dict[str, Tensor], Tensor]:
    tensors = {name: torch.from_numpy(array) for name, array in start.parameters.items()}
    return tensors, torch.from_numpy(start.known)


def _arrays(model: SASRec) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


class _Whole:
    """Steps against all items or the batch's own: AdamW with decay of the table alone."""

    def __init__(
        self,
        model: SASRec,
        s: BehaviorSettings,
        prior: Tensor,
        ranks: Ranks,
        *,
        steps: int,
        own_decay_K: Tensor | None,
    ) -> None:
        self.model, self.s, self.prior, self.ranks = model, s, prior, ranks
        self.own_decay_K = own_decay_K
        network = [p for name, p in model.named_parameters() if name != "table"]
        groups = [
            {"params": [model.table], "weight_decay": s.table_decay},
            {"params": network, "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=s.learning_rate, betas=BETAS, fused=True)
        self.schedule = _up_and_down(self.adam, steps)

    def step(self, batch: Batch) -> Tensor:
        """The loss of this process's rows, after a step on all of them."""
        self.adam.zero_grad()
        loss = _gradients(self.model, batch, self.s, self.prior, self.ranks)
        add_gradients(self.model.parameters(), self.ranks)
        if self.own_decay_K is not None:
            rate = self.schedule.get_last_lr()[0]
            with torch.no_grad():
                self.model.table.mul_((1 - rate * self.own_decay_K).clamp_min(0)[:, None])
        self.adam.step()
        self.schedule.step()
        return loss

    def finish(self) -> None:
        """After the last step."""


class _OfSample:
    """Steps against a sample of the items: the same, of the rows of the table that they read."""

    def __init__(
        self,
        model: SASRec,
        s: BehaviorSettings,
        prior: Tensor,
        ranks: Ranks,
        *,
        steps: int,
        negatives: Negatives,
        rng: np.random.Generator,
    ) -> None:
        self.model, self.s, self.prior, self.ranks = model, s, prior, ranks
        self.negatives, self.rng = negatives, rng
        self.network = [p for name, p in model.named_parameters() if name != "table"]
        self.adam = torch.optim.AdamW(
            self.network, lr=s.learning_rate, betas=BETAS, weight_decay=0.0, fused=True
        )
        self.table = TableDescent(model.table, decay=s.table_decay)
        self.schedule = _up_and_down(self.adam, steps)

    def step(self, batch: Batch) -> Tensor:
        """The loss of this process's rows, after a step on all of them."""
        place = self.prior.device
        drawn, correction_C = self.negatives.draw(self.rng)
        # of the whole batch, so that every process has the same rows, and sums are over them
        wanted = batch.targets[batch.targets >= 0]
        met = torch.cat([batch.items.flatten(), wanted, drawn])
        rows_R, local = (found.to(place) for found in met.unique(return_inverse=True))
        items, targets_P, negatives_C = local.split([batch.items.numel(), len(wanted), len(drawn)])
        targets = torch.full(batch.targets.shape, -1, device=place)
        targets[batch.targets.to(place) >= 0] = targets_P
        self.adam.zero_grad()
        vectors_RD = self.table.read(rows_R)
        here = batch._replace(items=items.view(batch.items.shape), targets=targets)
        own = here.on(place, _share(self.model, len(batch.items), self.ranks))
        found = own.targets >= 0
        loss = sampled_loss(
            self.model(own, vectors_RD)[found],
            vectors_RD,
            own.targets[found],
            negatives_C=negatives_C,
            correction_C=correction_C.to(place),
            prior_R=self.prior[rows_R],
            count=len(wanted),
        )
        loss.backward()
        add_gradients([*self.network, vectors_RD], self.ranks)
        self.adam.step()
        assert vectors_RD.grad is not None
        self.table.step(rows_R, vectors_RD.grad, rate=float(self.schedule.get_last_lr()[0]))
        self.schedule.step()
        return loss.detach()

    def finish(self) -> None:
        """After the last step."""
        self.table.finish()


def _up_and_down(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The learning rate up over a tenth of the steps, and down to 0."""
    warm = max(1, steps // 10)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )


def _trained(
    ranks: Ranks,
    *,
    sequences: Sequences,
    counts: np.ndarray,
    start: tuple[dict[str, Tensor], Tensor] | None,
    settings: BehaviorSettings,
    seed: tuple[int, int],
    device: str,
    content: Tensor | None = None,
    own_decay_K: Tensor | None = None,
    label: str = "",
    progress: Progress | None = None,
) -> SASRec:
    """The trained network, on the CPU. Fresh optimiser, learning rate up and down once; `start`
    gives every tensor except the rows of new items.

    counts: int64 [K], the events of each known item. own_decay_K: decoupled decay of the table's
    rows, beside that of the settings.
    """
    s, place = settings, resolve_device(device)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=seeded(place)):  # dropout takes no generator
        torch.manual_seed(int(rng.integers(2**62)))
        model = _begun(len(counts), s, start, content).to(place)
        prior = torch.from_numpy(np.log(counts).astype(np.float32)).to(place)
        decay_K = None if own_decay_K is None else own_decay_K.to(place)
        rows = s.batch // s.length
        epochs = s.epochs if start is None else s.continued_epochs
        steps = epochs * -(-sequences.transitions // (s.length * rows))
        descent: _Whole | _OfSample
        if isinstance(s.loss, Sampled):
            drawn, chance = Negatives(s.loss, counts), np.random.default_rng([*seed, 1])
            descent = _OfSample(model, s, prior, ranks, steps=steps, negatives=drawn, rng=chance)
        else:
            descent = _Whole(model, s, prior, ranks, steps=steps, own_decay_K=decay_K)
        for epoch in range(epochs):
            batches = packed_batches(sequences, length=s.length, rows=rows, rng=rng)
            losses = []
            for batch in batches:
                with memory_of(place, rows=s.batch):
                    losses.append(descent.step(batch))
            # of the own rows; read once an epoch, since a GPU would wait for every number
            logger.debug(
                "stage=%s epoch=%d loss=%.4f", label, epoch + 1, torch.stack(losses).mean()
            )
            if progress is not None:
                progress(label, epoch + 1, epochs)
        descent.finish()
    return model.cpu()


def _begun(
    items: int,
    s: BehaviorSettings,
    start: tuple[dict[str, Tensor], Tensor] | None,
    content: Tensor | None,
) -> SASRec:
    """The network before its first step."""
    model = SASRec(
        items,
        dim=s.dim,
        blocks=s.blocks,
        length=s.length,
        dropout=s.dropout,
        init_std=s.init_std,
        content=content,
    )
    if start is not None:
        tensors, known = start
        table = torch.where(known[:, None], tensors["table"], model.table.detach())
        own = {name: tensors[name] for name in model.state_dict()}
        model.load_state_dict({**own, "table": table})
    return model


def _gradients(
    model: SASRec, batch: Batch, s: BehaviorSettings, prior: Tensor, ranks: Ranks
) -> Tensor:
    """The loss of this process's rows, after its gradients."""
    assert not isinstance(s.loss, Sampled)
    whole = None if ranks.alone else batch.targets[batch.targets >= 0].to(prior.device)
    batch = batch.on(prior.device, _share(model, len(batch.items), ranks))
    wanted, items = batch.targets >= 0, model.items()
    loss = next_item_loss(
        model(batch, items)[wanted],
        items,
        batch.targets[wanted],
        s.loss,
        prior_I=prior,
        batch_P=whole,
    )
    loss.backward()
    return loss.detach()


def _share(model: SASRec, rows: int, ranks: Ranks) -> slice:
    """Which of a batch's rows are this process's; the model's dropouts draw for all of them."""
    if ranks.alone:
        return slice(None)
    mine = ranks.share(rows)
    drop_of(model, rows, mine)
    return mine
