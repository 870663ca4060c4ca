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


def _optimiser(
    model: SASRec, s: BehaviorSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with decay of the table alone, and its learning rate up and down once."""
    network = [p for name, p in model.named_parameters() if name != "table"]
    groups = [
        {"params": [model.table], "weight_decay": s.table_decay},
        {"params": network, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=s.learning_rate, betas=(0.9, 0.98), fused=True)
    warm = max(1, steps // 10)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
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
        optimizer, schedule = _optimiser(model, s, steps)
        for epoch in range(epochs):
            losses = []
            for batch in packed_batches(sequences, length=s.length, rows=rows, rng=rng):
                optimizer.zero_grad()
                with memory_of(place, rows=s.batch):
                    loss = _gradients(model, batch, s, prior, ranks)
                add_gradients(model.parameters(), ranks)
                if decay_K is not None:
                    rate = schedule.get_last_lr()[0]
                    with torch.no_grad():
                        model.table.mul_((1 - rate * decay_K).clamp_min(0)[:, None])
                optimizer.step()
                schedule.step()
                losses.append(loss)
            # of the own rows; read once an epoch, since a GPU would wait for every number
            logger.debug(
                "stage=%s epoch=%d loss=%.4f", label, epoch + 1, torch.stack(losses).mean()
            )
            if progress is not None:
                progress(label, epoch + 1, epochs)
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
    whole = None
    if not ranks.alone:
        mine = ranks.share(len(batch.items))
        drop_of(model, len(batch.items), mine)
        whole = batch.targets[batch.targets >= 0].to(prior.device)
        batch = batch.on(prior.device, mine)
    else:
        batch = batch.on(prior.device, slice(None))
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
