"""What a PPNet of the former format is made of, in numbers. Reads: nothing. Writes: PPNetSettings,
PPNetShape.

Legend: N rows, L positions, K codes, E embedding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from adc_features.ranking.legacy.features import ID_COLUMNS, USER_COLUMNS
from adc_features.ranking.legacy.inputs import Inputs

PRIOR_STATE = [USER_COLUMNS.index("log user_event_count")]
"""The user features that gates may see: how active the user is, not how well they rate, which would
bring the level into the order.
"""


@dataclass(frozen=True)
class PPNetSettings:
    """How a PPNet is built and trained.

    Parameters
    ----------
    embedding : int
        E, the width of an embedding.
    hidden : tuple of int
        Widths of a tower's hidden layers.
    gate : int
        Width of the hidden layer that all gates of a tower share.
    networks : int
        PPNets whose logits are averaged.
    level_hidden, fresh_hidden : int
        Widths of the two small networks.
    fresh_share : float
        How much of the fresh level enters the score: chosen on validation windows as the least
        that costs at most 0.001 AUC.
    bias_penalty : float
        Weight of the squared user bias in the loss.
    dropout : float
        Share of embeddings of ids and codes that are hidden while training.
    learning_rate, level_rate, fresh_rate : float
        Learning rates of the towers; of level, bias and calibration; of fresh. The last two fall
        to 0 over the level's epochs: at a constant rate the level that a seed ends on moves AUC by
        0.001.
    weight_decay : float
        Of the towers and their embeddings.
    batch : int
        Rows of one step.
    level_epochs, max_epochs : int
        Epochs of the small networks, and the most of the towers.

    Source
    ------
    PEPNet, arXiv 2302.01115.

    Examples
    --------
    >>> PPNetSettings(networks=1).hidden
    (64, 32)
    """

    embedding: int = 16
    hidden: tuple[int, ...] = (64, 32)
    gate: int = 16
    networks: int = 4
    level_hidden: int = 32
    fresh_hidden: int = 128
    fresh_share: float = 0.6
    bias_penalty: float = 0.05
    dropout: float = 0.5
    learning_rate: float = 3e-3
    level_rate: float = 1e-2
    fresh_rate: float = 3e-3
    weight_decay: float = 1e-6
    batch: int = 512
    level_epochs: int = 4
    max_epochs: int = 2

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """The settings that a ranker's `ppnet.json` holds."""
        return cls(**{**facts, "hidden": tuple(facts["hidden"])})


class PPNetShape(NamedTuple):
    """The widths of a PPNet that follow from its inputs.

    Parameters
    ----------
    id_rows : sequence of int
        Embedding rows of each column of `Inputs.ids`.
    item_id : bool
        Whether the network may read the item's id.
    positions, codes : int
        L and K + 1; the row 0 stands for "no code".
    dense, user_state, settled : int
        Widths of `dense_features` and of the arrays of that name.
    vectors : sequence of int
        Widths of the raw vectors.
    users : int
        Users with a free bias while training, and one row for all others.
    """

    id_rows: Sequence[int]
    item_id: bool
    positions: int
    codes: int
    dense: int
    user_state: int
    settled: int
    vectors: Sequence[int]
    users: int

    @property
    def id_columns(self) -> list[int]:
        """Columns of `Inputs.ids` that the network reads, the user first."""
        return [place for place, name in enumerate(ID_COLUMNS) if self.item_id or name != "item_id"]

    @property
    def prior_ids(self) -> int:
        """How many of `id_columns` the gates see: the user, and the item if it may be read."""
        return 2 if self.item_id else 1


def dense_features(inputs: Inputs) -> np.ndarray:
    """Item features, weights, reliability and matches side by side: float32 [N, F].

    Weights stand here too: multiplying alone cannot tell a weight of 0 from an embedding near 0.
    """
    return np.concatenate([inputs.item, inputs.weight, inputs.reliability, inputs.match], axis=1)
