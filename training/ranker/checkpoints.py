"""Where a fit from files was stopped. Reads, writes: <directory of the rows>/fit-<digest>.pt

Rows in memory have no checkpoint: who must read them again does the greater part of the work again.
"""

import hashlib
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adc_features.artifact import fresh_file
from adc_features.errors import ArtifactError
from adc_features.ranks import Ranks
from training.ranker.epochs import Epochs
from training.ranker.row_files import RowFiles

log = logging.getLogger(__name__)
EVERY = 1_000
"""Steps between two checkpoints: some seconds of work, beside which writing one is short."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of one fit. path: None for rows in memory. ranks: the first process writes."""

    path: Path | None
    ranks: Ranks

    @classmethod
    def of(cls, fitted: Epochs, *, begun_as: tuple[Any, ...], ranks: Ranks) -> "Checkpoint":
        """Of a fit that has not begun. begun_as: what it follows from beside its rows, labels,
        settings and first parameters: another fit on the same files has a checkpoint of its own.
        """
        if not isinstance(fitted.source, RowFiles):
            return cls(None, ranks)
        digest = hashlib.sha256(repr((fitted.settings, fitted.model.shape, begun_as)).encode())
        learned = fitted.loss.rows, fitted.loss.labels, fitted.loss.weights
        for values in (*learned, *fitted.model.parameters()):
            digest.update(values.detach().cpu().numpy().data)
        return cls(fitted.source.directory / f"fit-{digest.hexdigest()[:16]}.pt", ranks)

    def read(self) -> dict[str, Any] | None:
        """What was written last; None where nothing was. Raises ArtifactError."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            found: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            why = str(error).partition(".")[0]  # torch goes on with advice that is none here
            raise ArtifactError(
                f"checkpoint {self.path} cannot be read ({why}); delete it and fit again"
            ) from error
        log.info("stage=fit_network resumed_from=%s rounds_done=%d", self.path, len(found["curve"]))
        return found

    def after(self, keep: Callable[[], None]) -> Callable[[int], None] | None:
        """`Epochs.run`'s `after`: calls `keep` every EVERY steps; None for rows in memory."""
        return None if self.path is None else lambda steps: None if steps % EVERY else keep()

    def write(self, state: dict[str, Any]) -> None:
        """Replace what was written last."""
        if self.path is not None and self.ranks.rank == 0:
            with fresh_file(self.path) as file:
                torch.save(state, file)

    def remove(self) -> None:
        """The fit is done."""
        if self.path is not None and self.ranks.rank == 0:
            self.path.unlink(missing_ok=True)
