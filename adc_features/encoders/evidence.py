"""What a behaviour encoder learns from, and what it learned: the contract of every encoder.
Reads: Events, content. Writes: Evidence, Learned.

Legend: N items of the catalogue, K items known at a cut-off, E events, D dims.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from adc_features.encoders.event_log import Events
from adc_features.errors import InputError

Progress = Callable[[str, int, int], None]
Content = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Modality -> vectors float32 [N, C] and presence bool [N] of the catalogue's items."""


class Evidence(NamedTuple):
    """What is known before a cut-off.

    events: those before it, items as rows of the catalogue. known: int64 [K], ascending rows of the
    items that have an event. counts: int64 [K], at least 1. content: of the known items, [K]; empty
    for encoders that read none.
    """

    events: Events
    known: np.ndarray
    counts: np.ndarray
    content: Content


class Start(NamedTuple):
    """What was learned by the cut-off before, its `table` in rows of the items known now [K, D],
    and which of them were known then, bool [K].
    """

    parameters: Mapping[str, np.ndarray]
    known: np.ndarray


class Learned(NamedTuple):
    """vectors: float32 [K, D], in axes of their own. parameters: arrays by name that a later
    cut-off continues from; only `table` [K, D] has a row for each item.
    """

    vectors: np.ndarray
    parameters: dict[str, np.ndarray]


class Learner(Protocol):
    """Item vectors from evidence, from scratch or going on from `start`.

    The same evidence, start and seed give the same vectors; an event that is not in the evidence
    changes nothing, and neither does an item that nobody met. device: see `resolve_device`; what
    is learned is on the CPU.
    """

    def __call__(
        self,
        evidence: Evidence,
        start: Start | None,
        *,
        settings: Any,
        seed: tuple[int, int],
        label: str,
        progress: Progress | None,
        device: str = "cpu",
    ) -> Learned: ...


def known_content(content: Content, items: int, known: np.ndarray) -> Content:
    """Content of the known items. Raises InputError where there is none, or its rows are not those
    of the catalogue.
    """
    if not content:
        raise InputError(
            "this behaviour encoder reads the items' content, and there is none; bring text or"
            " vector columns, or choose the encoder `sasrec`, which reads events alone"
        )
    for name, (vectors, present) in content.items():
        if vectors.ndim != 2 or len(vectors) != items or present.shape != (items,):
            raise InputError(
                f"content {name!r} has vectors {vectors.shape} and presence {present.shape};"
                f" expected one row for each of {items} items of the catalogue"
            )
        if not np.isfinite(vectors[present]).all():
            raise InputError(f"content {name!r} has values that are not finite; embed it again")
    return {name: (vectors[known], present[known]) for name, (vectors, present) in content.items()}
