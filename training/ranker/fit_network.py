"""Fit a network of several tasks. Reads: Encoded, labels. Writes: its parameters, its curve.

The loss of a batch is the sum over tasks of weight * masked, weighted cross entropy, divided by
the task's mean sum of weights in a batch: a task with few labels neither swings from batch to batch
nor divides by zero where a batch has none. Shuffles, dropout and first parameters follow from the
seed alone.

Legend: N rows, T tasks.
"""

import logging
from collections.abc import Collection, Mapping
from typing import cast

import numpy as np
import torch

from adc_features.devices import resolve_device
from adc_features.inputs.encoded import Encoded
from adc_features.processes import together
from adc_features.ranking.base import Progress, Round
from adc_features.ranking.multitask.shape import NetworkShape
from adc_features.ranks import Ranks
from training.ranker.checkpoints import Checkpoint
from training.ranker.epochs import Epochs, FitSettings, HeldOut, fit_settings, logits_of
from training.ranker.labelled import Labelled
from training.ranker.network import Network, Networks
from training.ranker.row_files import RowFiles
from training.ranker.warm_start import warm_start

__all__ = [
    "Epochs",
    "FitSettings",
    "chosen_rounds",
    "fit_network",
    "fit_settings",
    "load",
    "logits_of",
    "parameters",
    "put_tables",
]

log = logging.getLogger(__name__)

ROUND_COST = 0.002
"""Held-out nats that each further round must save to be taken: a further epoch that saves less has
begun to learn rows by heart."""


def fit_network(
    encoded: Encoded | RowFiles,
    labels: np.ndarray,
    mask: np.ndarray,
    weights: np.ndarray,
    *,
    shape: NetworkShape,
    settings: FitSettings,
    seed: int,
    rounds: int | None = None,
    holdout: Labelled | None = None,
    start: tuple[NetworkShape, Mapping[str, np.ndarray]] | None = None,
    begin: Mapping[str, np.ndarray] | None = None,
    cold: Collection[str] = (),
    groups: np.ndarray | None = None,
    users: np.ndarray | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> tuple[dict[str, np.ndarray], list[Round]]:
    """Train a network.

    Parameters
    ----------
    encoded : Encoded or RowFiles
        N training rows, in memory or in files. Of files only a buffer is in memory; where it holds
        all rows, the parameters are those that rows in memory give, to the bit. A fit from files
        keeps a checkpoint beside them: stopped and called again, it goes on to the same parameters.
    labels, mask, weights : ndarray
        As in `Labelled`. Rows that are masked for every task, or weigh nothing, are left out.
    shape : NetworkShape
        What is built.
    settings : FitSettings
        How it is trained.
    seed : int
        The same seed gives the same parameters.
    rounds : int, optional
        Epochs. None: as many as the settings allow; with `holdout` the parameters are those after
        the round that `chosen_rounds` names.
    holdout : Labelled, optional
        Rows that are scored after each round.
    start : tuple of NetworkShape and mapping, optional
        An older network, for a warm start; see `warm_start`.
    begin : mapping of str to ndarray, optional
        Table -> the embeddings that it begins with, in every network, where there is no `start`.
    cold : collection of str, optional
        Inputs that begin anew in it.
    groups : ndarray, optional
        Request of each row; rows of one stay in one batch. The listwise term needs it.
    users : ndarray, optional
        User of each row, numbered from 0: with level inputs the order is learned beside a free bias
        for each.
    progress : callable, optional
        Told after each round.
    device : {"cpu", "auto", "cuda"}
        Where rows and network are while it is trained; see `adc_features.devices`.

    Returns
    -------
    tuple of dict and list of Round
        Parameters by name, and losses by round: the mean of the tasks' log losses, by task weight,
        listwise term included in that of the training rows.

    Raises
    ------
    InputError
        Labels, masks or weights that do not fit the rows, or no row that any task may learn from.
    ArtifactError
        A file of rows or a checkpoint cannot be read.
    DeviceError
        The device's memory does not hold a step; lower `settings.batch`.
    """
    shared = {
        "rows": Labelled(encoded, labels, mask, weights, groups, users),
        "shape": shape,
        "settings": settings,
        "seed": seed,
        "rounds": rounds,
        "holdout": holdout,
        "start": start,
        "begin": begin,
        "cold": tuple(cold),
        "device": resolve_device(device).type,
    }
    return together(_fitted, shared, {"progress": progress})


def _fitted(
    ranks: Ranks,
    *,
    rows: Labelled,
    shape: NetworkShape,
    settings: FitSettings,
    seed: int,
    rounds: int | None,
    holdout: Labelled | None,
    start: tuple[NetworkShape, Mapping[str, np.ndarray]] | None,
    begin: Mapping[str, np.ndarray] | None,
    cold: Collection[str],
    device: str,
    progress: Progress | None = None,
) -> tuple[dict[str, np.ndarray], list[Round]]:
    """`fit_network` in one of its processes."""
    place = resolve_device(device)
    held = None if holdout is None else HeldOut.of(holdout, shape, device=place)
    fitted = Epochs(rows, shape, settings, seed=seed, device=place, ranks=ranks)
    model, taken, best = fitted.model, None, np.inf
    if start is None:
        put_tables(model, begin or {})
    else:
        started = warm_start(model, *start, cold=cold)
        log.info("stage=fit_network carried=%d anew=%s", len(started.carried), started.anew)
    curve: list[Round] = []
    checkpoint = Checkpoint.of(fitted, begun_as=(seed, rounds), ranks=ranks)
    if saved := checkpoint.read():
        fitted.load(saved["epochs"])
        best, curve = saved["best"], [Round(*values) for values in saved["curve"]]
        taken = {name: value.numpy() for name, value in saved["taken"].items()} or None

    def keep() -> None:
        chosen = {name: torch.from_numpy(value) for name, value in (taken or {}).items()}
        kept = {"best": float(best), "taken": chosen, "curve": [tuple(point) for point in curve]}
        checkpoint.write({"epochs": fitted.state(), **kept})

    epochs = rounds or settings.max_epochs
    for done in range(len(curve) + 1, epochs + 1):
        train = fitted.run(checkpoint.after(keep)) / sum(shape.task_weights)
        lost = None if held is None else held.loss(model)
        curve.append(Round(done, train, lost))
        if lost is not None and rounds is None and lost + ROUND_COST * done < best:
            best, taken = lost + ROUND_COST * done, parameters(model)
        if progress is not None:
            progress("train network", done, epochs)
    checkpoint.remove()
    return taken or parameters(model), curve


def chosen_rounds(curve: list[Round], cost: float = ROUND_COST) -> int:
    """The round with the least held-out loss, where each further round must save `cost`."""
    losses = np.array([point.holdout for point in curve], np.float64)
    return 1 + int((losses + cost * np.arange(len(losses))).argmin())


@torch.no_grad()
def put_tables(model: Networks, tables: Mapping[str, np.ndarray]) -> None:
    """Put embeddings into the tables of these names, of every network."""
    for name, values in tables.items():
        first = model.shape.starts[name]
        for network in model.networks:
            table = cast(Network, network).embeddings.table
            table[first : first + len(values)] = torch.from_numpy(values)


def parameters(model: Networks) -> dict[str, np.ndarray]:
    """A copy of all parameters by name, float32."""
    return {name: value.detach().cpu().numpy().copy() for name, value in model.named_parameters()}


def load(shape: NetworkShape, tensors: Mapping[str, np.ndarray]) -> Networks:
    """The torch module with these parameters."""
    with torch.random.fork_rng(devices=[]):
        model = Networks(shape)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    return model
