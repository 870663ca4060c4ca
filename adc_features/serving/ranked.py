"""What the service asks of a bundle, whichever kind of ranker it holds. Writes: Ranked.

Legend: N candidates.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from adc_features.inputs.rows import Parts
from adc_features.serving.promotion import Promotion
from adc_features.serving.protocol import RankRequest


class Ranked(NamedTuple):
    """The scored candidates of one request.

    Attributes
    ----------
    score : ndarray
        float [N], in the order of `columns`.
    columns : mapping of str to list or ndarray
        What the answer says of each candidate, [N] each, its key first.
    facts : mapping of str to object
        What the answer says of the request.
    known, coded : ndarray
        bool [N]: the item was found online; it has a code.
    user_known : bool
        The user was found online.
    repeated : int
        Candidates that were asked more than once.
    seconds : mapping of str to float
        Wall time by part.
    parts : Parts, optional
        What was read of the store, where the ranker reads a feature service.
    served_as_of : datetime, optional
        The time as of which history says what was read, where live views were.
    torn : bool
        Live views were read while events were committed, so that no one time is it.
    """

    score: np.ndarray
    columns: Mapping[str, Any]
    facts: Mapping[str, Any]
    known: np.ndarray
    coded: np.ndarray
    user_known: bool
    repeated: int
    seconds: Mapping[str, float]
    parts: Parts | None = None
    served_as_of: datetime | None = None
    torn: bool = False


class Serving(Protocol):
    """An opened promotion."""

    @property
    def promotion(self) -> Promotion: ...

    @property
    def recipe_name(self) -> str:
        """What the ranker is called in answers and metrics."""
        ...

    def check_online(self) -> None:
        """Raise ArtifactError when the online store lost what was put into it."""
        ...

    def changed(self) -> tuple[str, ...]:
        """What is otherwise now, below it, than when it was opened; it goes on as it was."""
        ...

    def rank(self, asked: RankRequest, *, now: datetime) -> Ranked:
        """Score the candidates of a request as of `now`."""
        ...

    def items(self) -> "ItemLookup":
        """What answers lookups of items. Raises RequestError where this ranker has none."""
        ...


class ItemLookup(Protocol):
    """What is online of items."""

    def lookup(self, item_ids: list[Any], *, now: datetime) -> pa.Table:
        """What is online of items, in the order asked."""
        ...

    def shown(self, rows: pa.Table, features: list[str]) -> dict[str, list[Any]]:
        """The columns of a lookup's answer, without the item's id: `found` first."""
        ...
