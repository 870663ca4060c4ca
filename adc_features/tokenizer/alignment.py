"""How strongly content follows behaviour, item by item. Reads: reliability x, projections h.
Writes: w and the alignment loss.

Legend: B rows.
"""

from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from adc_features.codes.spec import BEHAVIOR


def strength(x: Tensor, alpha: float, beta: float) -> Tensor:
    """w in (0, 1], same shape as x in [0, 1]: sigma(alpha x - beta) / sigma(alpha - beta) (ADC-SID
    Eq. 17), so w(1) = 1.

    alpha = beta = 0 is the paper's ablation without the controller: w = 1 for every item.
    """
    top = torch.tensor(alpha - beta, dtype=x.dtype)
    return torch.sigmoid(alpha * x - beta) / torch.sigmoid(top)


def info_nce(
    anchor: Tensor,
    other: Tensor,
    known: Tensor,
    *,
    temperature: float,
    candidate_weight: Tensor | None = None,
) -> Tensor:
    """-log softmax of cosine / temperature at each row's own partner, float32 [B] (Eq. 18-20); 0
    where not `known`.

    The candidates are all known rows of the batch, the partner included. candidate_weight: float32
    [B], how much each row counts as somebody else's negative (methods A25); None counts all alike.
    """
    rows = torch.nonzero(known).flatten()
    logits = F.normalize(anchor[rows], dim=-1) / temperature @ F.normalize(other[rows], dim=-1).T
    if candidate_weight is not None:
        own = torch.eye(len(rows), dtype=torch.bool)
        logits = logits + torch.where(own, 0.0, candidate_weight[rows].clamp_min(1e-12).log())
    return torch.zeros(len(known)).index_copy(0, rows, -F.log_softmax(logits, dim=1).diagonal())


def alignment_loss(
    projected: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    w: Tensor,
    *,
    temperature: float,
    stopgrad_behavior: bool,
    denoise_negatives: bool,
) -> Tensor:
    """Mean over rows of content-content terms plus w times the content-behaviour terms (Eq. 18-21),
    a scalar.

    Content pairs pull both ways; content is the anchor towards behaviour. w multiplies inside the
    mean: it is per item.
    """
    rows = torch.zeros_like(w)
    content = [m for m in projected if m != BEHAVIOR]
    for a, b in combinations(content, 2):
        known = present[a] & present[b]
        rows = rows + info_nce(projected[a], projected[b], known, temperature=temperature)
        rows = rows + info_nce(projected[b], projected[a], known, temperature=temperature)
    if BEHAVIOR in projected:
        behavior = projected[BEHAVIOR].detach() if stopgrad_behavior else projected[BEHAVIOR]
        negatives = w if denoise_negatives else None
        for m in content:
            known = present[m] & present[BEHAVIOR]
            rows = rows + w * info_nce(
                projected[m], behavior, known, temperature=temperature, candidate_weight=negatives
            )
    return rows.mean()
