"""One training of SASRec, from scratch or from earlier parameters. Reads: Sequences. Writes:
parameters by name.

Legend: K items known at a cut-off, D dims.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from adc_features.encoders.behavior_settings import BehaviorSettings
from adc_features.encoders.sasrec import SASRec, Sequences, next_item_loss, packed_batches

logger = logging.getLogger(__name__)


Progress = Callable[[str, int, int], None]


class Start(NamedTuple):
    """Parameters by name, `table` [K, D] among them, and the rows of it that mean something: bool
    [K].
    """

    tensors: dict[str, Tensor]
    known: Tensor


def train(
    sequences: Sequences,
    counts: np.ndarray,
    start: Start | None,
    *,
    settings: BehaviorSettings,
    seed: tuple[int, int],
    label: str,
    progress: Progress | None,
) -> dict[str, Tensor]:
    """SASRec's parameters. Fresh optimiser, learning rate up and down once; `start` gives every
    tensor except the rows of new items.

    counts: int64 [K], the events of each known item.
    """
    s = settings
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):  # dropout takes no generator
        torch.manual_seed(int(rng.integers(2**62)))
        model = SASRec(
            len(counts),
            dim=s.dim,
            blocks=s.blocks,
            length=s.length,
            dropout=s.dropout,
            init_std=s.init_std,
        )
        if start is not None:
            table = torch.where(start.known[:, None], start.tensors["table"], model.table.detach())
            model.load_state_dict({**start.tensors, "table": table})
        prior = torch.from_numpy(np.log(counts).astype(np.float32))
        rows = s.batch // s.length
        epochs = s.epochs if start is None else s.continued_epochs
        steps = epochs * -(-sequences.transitions // (s.length * rows))
        network = [p for name, p in model.named_parameters() if name != "table"]
        groups = [
            {"params": [model.table], "weight_decay": s.table_decay},
            {"params": network, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=s.learning_rate, betas=(0.9, 0.98), fused=True)
        warm = max(1, steps // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
        )
        for epoch in range(epochs):
            losses = []
            for batch in packed_batches(sequences, length=s.length, rows=rows, rng=rng):
                wanted = batch.targets >= 0
                loss = next_item_loss(
                    model(batch)[wanted], model.table, batch.targets[wanted], s.loss, prior_I=prior
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
            logger.debug("stage=%s epoch=%d loss=%.4f", label, epoch + 1, np.mean(losses))
            if progress is not None:
                progress(label, epoch + 1, epochs)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}
