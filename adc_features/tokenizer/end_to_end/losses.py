"""The losses of UniSID. Reads: logits, vectors, groups. Writes: scalars.

Legend: B rows of a batch, M past rows of the bank, C = B + M candidates, L levels, K codes.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SHARPNESS = 0.2
"""Temperature of a choice among codes, in cosine of logits, times the root of K: a logit of K at
unit length is about 1 / sqrt(K).
"""


class Candidates(NamedTuple):
    """Rows that are compared, those of the batch first: item numbers int64 [C], group numbers int64
    [C, L] (-1: none).
    """

    item_C: Tensor
    group_CL: Tensor


def contrast(score_BC: Tensor, positive_BC: Tensor, allowed_BC: Tensor) -> Tensor:
    """Mean over rows of minus the mean log-softmax, over what is allowed, of its positives; a row
    without any counts nothing.
    """
    log_BC = F.log_softmax(score_BC.masked_fill(~allowed_BC, float("-inf")), dim=1)
    agreed_B = torch.where(positive_BC, log_BC, 0.0).sum(1) / positive_BC.sum(1).clamp_min(1)
    counts_B = positive_BC.any(1)
    return -torch.where(counts_B, agreed_B, 0.0).sum() / counts_B.sum().clamp_min(1)


def multi_granular(
    unit_CLK: Tensor, who: Candidates, *, batch: int, temperature: float, siblings: bool, views: int
) -> Tensor:
    """L_sid: mean over levels of the contrast of logits (at unit length, [C, L, K]) whose positives
    share the group of the level.

    siblings: at each level only items that share the group of the level before are compared. views:
    2 makes the other view of an item in the batch a positive of it.
    """
    other_BC, again_BC = _others(who.item_C, batch)
    allowed_BC = other_BC | again_BC if views > 1 else other_BC
    losses, before_BC = [], allowed_BC
    for level in range(who.group_CL.shape[1]):
        group_C = who.group_CL[:, level]
        together_BC = (group_C[:batch, None] == group_C) & (group_C >= 0)
        positive_BC = other_BC & together_BC
        if views > 1:
            positive_BC = positive_BC | again_BC
        unit_CK = unit_CLK[:, level]
        losses.append(contrast(unit_CK[:batch] @ unit_CK.T / temperature, positive_BC, before_BC))
        if siblings:
            before_BC = allowed_BC & (together_BC | again_BC)
    return torch.stack(losses).mean()


def paired(
    unit_CE: Tensor, who: Candidates, partner_B: Tensor, *, batch: int, temperature: float
) -> Tensor:
    """L_emb: InfoNCE of vectors (at unit length, [C, E]); the positive of a row is its partner
    (item number, -1: none), and without one all of its finest group.
    """
    other_BC, _ = _others(who.item_C, batch)
    group_C = who.group_CL[:, -1]
    together_BC = (group_C[:batch, None] == group_C) & (group_C >= 0)
    has_B = partner_B >= 0
    positive_BC = torch.where(has_B[:, None], who.item_C == partner_B[:, None], together_BC)
    return contrast(unit_CE[:batch] @ unit_CE.T / temperature, positive_BC & other_BC, other_BC)


def unevenness(logits_BLK: Tensor) -> Tensor:
    """ln K minus what a code tells of its item: the entropy of mean use less the mean entropy of
    each choice, in nats, mean over levels.

    The entropy of mean use alone is greatest when every choice is undecided, and then argmax may be
    the same code for all. The contrast leaves the scale of logits free, so choices are compared at
    unit length over SHARPNESS / sqrt(K): softer, all of them look undecided, and few codes win.
    """
    unit_BLK = F.normalize(logits_BLK - logits_BLK.mean(-1, keepdim=True), dim=-1)
    soft_BLK = torch.softmax(unit_BLK * (math.sqrt(logits_BLK.shape[2]) / SHARPNESS), dim=-1)
    use_LK = soft_BLK.mean(0)
    choice_L = -torch.xlogy(soft_BLK, soft_BLK).sum(-1).mean(0)
    return (math.log(logits_BLK.shape[2]) + torch.xlogy(use_LK, use_LK).sum(1) + choice_L).mean()


def _others(item_C: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Which candidates are other items, and which are another row of the batch of the same item:
    bool [B, C] each.
    """
    other_BC = item_C[:batch, None] != item_C
    again_BC = ~other_BC
    again_BC[:, batch:] = False
    again_BC[:, :batch] &= ~torch.eye(batch, dtype=torch.bool)
    return other_BC, again_BC
