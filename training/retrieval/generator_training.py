"""Train a generator. Reads: sequences, codes. Writes: Generator, a checkpoint after each epoch."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adc_features.artifact import fresh_file
from adc_features.devices import memory_of, resolve_device, seeded
from adc_features.encoders.sasrec import Batch, Sequences, drop_of, packed_batches
from adc_features.generator.catalogue import Coded
from adc_features.generator.generator import Generator, GeneratorSettings
from adc_features.processes import add_gradients, together, total
from adc_features.ranks import Ranks
from adc_features.tokenizer.encode import one_thread

log = logging.getLogger(__name__)


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
    device: str = "cpu",
) -> tuple[Generator, list[float]]:
    """A trained generator and its mean loss by epoch. One seed gives the same generator twice;
    trained on one thread.

    checkpoint: a file written after every epoch; a later call with the same fingerprint goes on
    from it to the same result, one of another is ignored. device: where it is trained, see
    `adc_features.devices`; the generator comes back on the CPU. Processes that torchrun started
    share each batch. Raises DeviceError where a device's memory does not hold a step: lower
    `settings.batch`.
    """
    shared = {
        "sequences": sequences,
        "coded": coded,
        "items": items,
        "settings": settings,
        "seed": seed,
        "device": resolve_device(device).type,
        "saved": _saved(checkpoint, fingerprint),
    }
    own = {"checkpoint": checkpoint, "fingerprint": fingerprint, "progress": progress}
    return together(_trained, shared, own)


def _trained(
    ranks: Ranks,
    *,
    sequences: Sequences,
    coded: Coded | None,
    items: int,
    settings: GeneratorSettings,
    seed: int,
    device: str,
    saved: Mapping[str, Any] | None,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Generator, list[float]]:
    """`train_generator` in one of its processes. saved: of `_saved`."""
    s, place = settings, resolve_device(device)
    # dropout takes no generator
    with one_thread(), torch.random.fork_rng(devices=seeded(place)):
        torch.manual_seed(seed)
        model = Generator(coded, items=items, settings=s).on(place)
        rows = s.batch // s.length
        steps = s.epochs * -(-sequences.transitions // (s.length * rows))
        optimizer, schedule = _optimizer(model, s, steps=steps)
        carried: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
        curve: list[float] = []
        if saved is not None:
            curve = list(saved["curve"])
            for name, part in carried.items():
                part.load_state_dict(saved[name])
        for epoch in range(len(curve), s.epochs):
            # chance is drawn anew each epoch, so a checkpoint carries none
            rng = np.random.default_rng([seed, epoch])
            torch.manual_seed(int(rng.integers(2**62)))
            losses = []
            for batch in packed_batches(sequences, length=s.length, rows=rows, rng=rng):
                optimizer.zero_grad()
                with memory_of(place, rows=s.batch):
                    loss = _gradients(model, batch, ranks)
                    add_gradients(model.parameters(), ranks)
                    optimizer.step()
                schedule.step()
                losses.append(float(loss))
            curve.append(float(np.mean(losses)))
            if checkpoint is not None:
                _write_checkpoint(
                    checkpoint,
                    {name: part.state_dict() for name, part in carried.items()}
                    | {"fingerprint": fingerprint, "curve": curve},
                )
            if progress is not None:
                progress(epoch + 1, s.epochs)
    return model.on(torch.device("cpu")).eval().requires_grad_(False), curve


def _gradients(model: Generator, batch: Batch, ranks: Ranks) -> Tensor:
    """The loss of a batch, after the gradients of this process's rows."""
    place = model.places.device
    if ranks.alone:
        here = batch.on(place, slice(None))
    else:
        mine = ranks.share(len(batch.items))
        drop_of(model, len(batch.items), mine)
        here = batch.on(place, mine)
    wanted = here.targets >= 0
    loss = model.places.new_zeros(())
    if wanted.any():  # a short batch leaves some processes without a target
        loss = model.loss(model(here)[wanted], here.targets[wanted])
        if not ranks.alone:
            loss = loss * (int(wanted.sum()) / int((batch.targets >= 0).sum()))
        loss.backward()
    return total(loss.detach(), ranks)


def _optimizer(
    model: Generator, s: GeneratorSettings, *, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with decay of code vectors and item rows alone; its rate rises over a tenth of the
    steps, then falls to 0.
    """
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
    return optimizer, schedule


def _saved(checkpoint: Path | None, fingerprint: str) -> dict[str, Any] | None:
    """The states and losses of the epochs in the checkpoint; None where there is none of this
    fingerprint.
    """
    if checkpoint is None or not checkpoint.is_file():
        return None
    saved: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location="cpu")
    if saved["fingerprint"] != fingerprint:
        return None
    epochs = len(saved["curve"])
    log.info("stage=generator resumed_at_epoch=%d of checkpoint=%s", epochs, checkpoint)
    return saved


def _write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh_file(path) as file:
        torch.save(state, file)
