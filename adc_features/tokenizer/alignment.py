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
from adc_features.processes import gathered, mean
from adc_features.ranks import ALONE, Ranks


def strength(x: Tensor, alpha: float, beta: float) -> Tensor:
    """w in (0, 1], same shape as x in [0, 1]: sigma(alpha x - beta) / sigma(alpha - beta) (ADC-SID
    Eq. 17), so w(1) = 1.

    alpha = beta = 0 is the paper's ablation without the controller: w = 1 for every item.
    """
    top = torch.tensor(alpha - beta, dtype=x.dtype, device=x.device)
    return torch.sigmoid(alpha * x - beta) / torch.sigmoid(top)


def info_nce(
    anchor: Tensor,
    other: Tensor,
    known: Tensor,
    *,
    temperature: float,
    ranks: Ranks = ALONE,
) -> Tensor:
    """-log softmax of cosine / temperature at each row's own partner, float32 [B] (Eq. 18-20); 0
    where not `known`.

    The candidates are all known rows of the batch, those of every process and the partner included,
    and count alike.
    """
    rows = torch.nonzero(known).flatten()
    others, first = gathered(other[rows], ranks)
    logits = F.normalize(anchor[rows], dim=-1) / temperature @ F.normalize(others, dim=-1).T
    lost = -F.log_softmax(logits, dim=1).diagonal(first)
    return torch.zeros(len(known), device=known.device).index_copy(0, rows, lost)


def alignment_loss(
    projected: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    w: Tensor,
    *,
    temperature: float,
    ranks: Ranks = ALONE,
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
        for anchor, other in ((a, b), (b, a)):
            rows = rows + info_nce(
                projected[anchor], projected[other], known, temperature=temperature, ranks=ranks
            )
    if BEHAVIOR in projected:
        for m in content:
            known = present[m] & present[BEHAVIOR]
            rows = rows + w * info_nce(
                projected[m], projected[BEHAVIOR], known, temperature=temperature, ranks=ranks
            )
    return mean(rows, ranks)
