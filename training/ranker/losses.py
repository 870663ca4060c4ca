"""The loss of batches of several tasks. Reads: Labelled. Writes: MultitaskLoss.

The loss of a batch is the sum over tasks of weight * masked, weighted cross entropy, divided by
the task's mean sum of weights in a batch: a task with few labels neither swings from batch to batch
nor divides by zero where a batch has none.

Legend: N rows, N' learnable rows, B rows of a batch, T tasks.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from adc_features.errors import InputError
from adc_features.ranking.multitask.shape import NetworkShape
from training.ranker.labelled import Labelled, weighed


@dataclass(frozen=True)
class MultitaskLoss:
    """The loss of batches of learnable rows.

    rows: int64 [N'], the rows that some task learns from; `labels`, `weights` (0 where masked):
    [N', T] and `groups`: [N'] are theirs. scale, listwise: [T], factors of the sums of a batch.
    """

    rows: Tensor
    labels: Tensor
    weights: Tensor
    groups: Tensor | None
    scale: Tensor
    listwise: Tensor

    @classmethod
    def of(cls, rows: Labelled, shape: NetworkShape, batch: int) -> "MultitaskLoss":
        """Raises InputError for labels that do not fit the rows or the tasks."""
        weights = weighed(rows, shape.tasks)
        learnable = np.flatnonzero(weights.any(0))
        if not len(learnable):
            raise InputError(
                f"none of {len(rows.encoded)} rows has a label that counts: every label is masked"
                " or weighs 0; check the ripeness of the labels and the training window"
            )
        if shape.listwise and rows.groups is None:
            raise InputError(
                f"listwise={shape.listwise} without requests: name the column of the label log that"
                " tells a row's request"
            )
        weights = weights[:, learnable]
        labels = np.where(weights > 0, rows.labels[:, learnable], 0).astype(np.float32)
        groups = None
        if rows.groups is not None:
            groups = np.unique(np.asarray(rows.groups)[learnable], return_inverse=True)[1]
        batches = max(1, -(-len(learnable) // batch))
        task = np.array(shape.task_weights)
        return cls(
            torch.from_numpy(learnable),
            torch.from_numpy(np.ascontiguousarray(labels.T)),
            torch.from_numpy(np.ascontiguousarray(weights.T)),
            None if groups is None else torch.from_numpy(groups.astype(np.int64)),
            _per_batch(task, weights.sum(1, dtype=np.float64), batches),
            _per_batch(shape.listwise * task, (weights * labels).sum(1, dtype=np.float64), batches),
        )

    def on(self, device: torch.device) -> "MultitaskLoss":
        """The same on a device."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {n: p if p is None else p.to(device) for n, p in parts.items()}
        return MultitaskLoss(**moved)

    def __call__(self, logits: Tensor, places: Tensor) -> Tensor:
        """Of the learnable rows at these places (int64 [B]); logits: [T, B]."""
        labels, weights = self.labels[places].T, self.weights[places].T
        each = cross_entropy(logits, labels, reduction="none") * weights
        total = each.sum(1) @ self.scale
        if self.groups is None or not self.listwise.any():
            return total
        group = self.groups[places].unique(return_inverse=True)[1]
        return total + listwise_sums(logits, labels, weights, group) @ self.listwise


def listwise_sums(logits: Tensor, labels: Tensor, weights: Tensor, group: Tensor) -> Tensor:
    """[T]: the sum over positives of weight * -log softmax within the group, among rows that are
    not masked.

    logits, labels, weights (0: masked): [T, B]; group: int64 [B], from 0.
    """
    count = int(group.max()) + 1 if len(group) else 0
    index = group.expand_as(logits)
    seen = logits.masked_fill(weights <= 0, -torch.inf)
    # the greatest of each group, so that no exponential overflows; it cancels out
    greatest = logits.new_full((len(logits), count), -torch.inf).scatter_reduce(
        1, index, seen.detach(), "amax"
    )
    greatest = greatest.masked_fill(greatest == -torch.inf, 0.0)
    sums = logits.new_zeros(len(logits), count).scatter_add(
        1, index, torch.exp(seen - greatest.gather(1, index))
    )
    log_sums = torch.log(sums.clamp(min=1e-30)) + greatest
    return ((log_sums.gather(1, index) - logits) * labels * weights).sum(1)


def _per_batch(task: np.ndarray, sums: np.ndarray, batches: int) -> Tensor:
    """task / (sum / batches), 0 where there is no sum."""
    scale = np.divide(task * batches, sums, out=np.zeros(len(sums)), where=sums > 0)
    return torch.from_numpy(scale.astype(np.float32))
