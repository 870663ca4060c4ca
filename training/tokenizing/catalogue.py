"""Items of a repository as of each time. Reads: content, a label log. Writes: EmbeddingTables."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from adc_features.codes.embeddings import EmbeddingTable, id_array
from adc_features.codes.spec import BEHAVIOR
from adc_features.encoders.behavior_state import BehaviorVectors
from adc_features.errors import InputError
from adc_features.pipeline.recipes import behavior_settings
from adc_features.ranking.base import Progress
from training.tokenizing.behavior import continued_behavior
from training.tokenizing.settings import LARGEST_CODEBOOK, TokenizeSettings
from training.tokenizing.sources import Content, aligned

ITEMS_PER_CODE = 4
"""A codebook that nobody sized has a code for so many items, and at most LARGEST_CODEBOOK."""


class Catalogue:
    """Items as of each time: content, and behaviour where a label log is given."""

    def __init__(
        self,
        times: Sequence[datetime],
        content: Sequence[Mapping[str, Content]],
        events: pa.Table | None,
    ) -> None:
        self.times, self.content, self.events = times, content, events
        self.behavior: list[BehaviorVectors] | None = None
        self._of = {m: aligned(content, m) for m in content[0]}
        ids = [c.ids for at in content for c in at.values()]
        if events is not None:
            ids.append(id_array(events["item_id"]))
        self.ids = np.unique(np.concatenate(ids))

    def content_at(self, number: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Modality -> vectors and presence of all items, as known at a time."""
        return {m: of(number, self.ids) for m, of in self._of.items()}

    def table(self, number: int) -> EmbeddingTable:
        """The items that have a vector at a time."""
        found = dict(self.content_at(number))
        count = np.zeros(len(self.ids), np.int64)
        if self.behavior is not None:
            state = self.behavior[number]
            found[BEHAVIOR] = state.vectors, state.present
            count = state.interaction_count.astype(np.int64)
        kept = np.any([present for _, present in found.values()], axis=0)
        if not kept.any():
            raise InputError(
                f"no item has a vector or a text before {self.times[number].isoformat()}; choose a"
                " later as_of"
            )
        return EmbeddingTable(
            self.ids[kept],
            {m: vectors[kept] for m, (vectors, _) in found.items()},
            {m: present[kept] for m, (_, present) in found.items()},
            count[kept],
            self.times[number],
        )

    def bare(self, number: int) -> int:
        """How many items are known at a time and have no vector, so that they get no code."""
        number %= len(self.times)
        listed = np.unique(np.concatenate([c.ids for c in self.content[number].values()]))
        return int((~np.isin(listed, self.table(number).item_ids)).sum())

    def tables(
        self, directory: Path, settings: TokenizeSettings, progress: Progress | None
    ) -> list[EmbeddingTable]:
        """One a time; behaviour continues from the states in `directory` where it was not fitted
        in this call."""
        if self.events is not None and self.behavior is None:
            self.behavior = [
                replace(
                    continued_behavior(
                        self.events,
                        self.ids,
                        time,
                        settings=behavior_settings(settings.as_run().behavior),
                        seed=settings.seed,
                        content=self.content_at(number),
                        directory=directory,
                        progress=progress,
                    ),
                    as_of=time,
                )
                for number, time in enumerate(self.times)
            ]
        return [self.table(number) for number in range(len(self.times))]


def codebook_size_of(newest: EmbeddingTable) -> int:
    """K for a catalogue: of the modality with the fewest distinct vectors."""
    fewest = min(
        len(np.unique(vectors[newest.present[m]], axis=0)) for m, vectors in newest.vectors.items()
    )
    return max(2, min(LARGEST_CODEBOOK, fewest // ITEMS_PER_CODE))
