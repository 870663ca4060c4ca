"""Begin a network with the parameters of an older one. Reads: an older network. Writes: parameters
of a new one.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from adc_features.ranking.multitask.shape import NetworkShape
from training.ranker.network import Networks

UNKNOWN = 1
"""Row of a table whose copy a new row begins with."""


class Started(NamedTuple):
    """What a warm start took over, by name of a parameter: grown tables among the carried."""

    carried: list[str]
    anew: list[str]


@torch.no_grad()
def warm_start(
    model: Networks,
    older: NetworkShape,
    tensors: Mapping[str, np.ndarray],
    *,
    cold: Collection[str] = (),
) -> Started:
    """Take over what an older network knows, and say what.

    Tables by name: old rows are kept, new ones begin as a copy of the row "unknown", so that an id
    scores at admission as it did before. Everything else is taken over where inputs, tasks and
    widths are the same, and begins anew where they are not.

    cold: inputs whose values mean something else now. Their tables begin anew, and so does all that
    is no table, as it has learned to read them together with the others.
    """
    shape = model.shape
    carried: list[str] = []
    anew: list[str] = []
    same = not cold and _structure(shape) == _structure(older)
    lost = {t for name in cold for slot in shape.inputs[name].slots for t in slot.tables}
    for name, parameter in model.named_parameters():
        known = tensors.get(name)
        if name.endswith("embeddings.table"):
            for table in shape.tables:
                said = f"{name}/{table}"
                kept = table not in lost and _grow(parameter, shape, known, older, table)
                (carried if kept else anew).append(said)
        elif same and known is not None and known.shape == tuple(parameter.shape):
            parameter.copy_(torch.from_numpy(known))
            carried.append(name)
        else:
            anew.append(name)
    return Started(carried, anew)


def _structure(shape: NetworkShape) -> tuple:
    """What must be equal for parameters other than tables to mean the same."""
    apart = shape.level, shape.settled, shape.gate_only
    return shape.inputs, shape.tasks, shape.gates, shape.domain, apart, shape.settings.epnet


def _grow(
    parameter: Tensor,
    shape: NetworkShape,
    known: np.ndarray | None,
    older: NetworkShape,
    table: str,
) -> bool:
    """Copy the rows of one table; False where the older network has none such."""
    count, before = shape.tables[table], older.tables.get(table, 0)
    if known is None or known.shape[1] != parameter.shape[1] or not 0 < before <= count:
        return False
    rows = torch.from_numpy(known[older.starts[table] : older.starts[table] + before])
    start = shape.starts[table]
    parameter[start : start + before] = rows
    if before < count:
        parameter[start + before : start + count] = rows[min(UNKNOWN, before - 1)]
    return True
