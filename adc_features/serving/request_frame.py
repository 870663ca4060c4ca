"""One side of a request as a Frame. Reads: online features. Writes: arrays.

Legend: N rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pyarrow as pa

from adc_features.inputs.candidates import SECOND_ROLES, SID_COLUMNS
from adc_features.ranking.inputs import lists_of
from adc_features.store.lmdb.records import Column
from adc_features.store.packed.timeline import Codes

CODES = [SID_COLUMNS[role] for role in ("codes", "weights", "reliability")]
"""Names of what `coded` holds, in its order."""
SECOND = [SID_COLUMNS[role] for role in SECOND_ROLES]
"""And of what `second` holds."""


@dataclass
class RequestFrame:
    """One side of a request as a Frame and as columns: the asker, one row, or the candidates.

    ids: `user_id` or `item_id`. columns: online features. coded: codes, weights and reliability of
    the rows, once they were looked up; second: second codes and their probabilities, of a
    generation that tells them.
    """

    ids: Mapping[str, np.ndarray]
    columns: Mapping[str, Column]
    times: np.ndarray
    generation: str | None
    coded: Codes | None = None
    second: tuple[np.ndarray, np.ndarray] | None = None
    _texts: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def known(self) -> np.ndarray:
        """bool [N]: rows with any online feature."""
        return np.logical_or.reduce([column.valid for column in self.columns.values()])

    @property
    def labels(self) -> np.ndarray:
        return np.zeros(len(self), np.float32)

    @property
    def user_ids(self) -> np.ndarray:
        return self.ids["user_id"]

    @property
    def item_ids(self) -> np.ndarray:
        return self.ids["item_id"]

    def numbers(self, name: str) -> np.ndarray:
        return self.columns[name].numbers()

    def texts(self, name: str) -> np.ndarray:
        if name not in self._texts:
            ids = self.ids.get(name)
            self._texts[name] = (
                self.columns[name].flat()
                if ids is None
                else ids.astype(object)
                if ids.dtype.kind == "U"
                else ids
            )
        return self._texts[name]

    def flat(self, name: str) -> np.ndarray:
        return self.columns[name].flat()

    def sizes(self, name: str) -> np.ndarray:
        return np.diff(cast(np.ndarray, self.columns[name].offsets))

    def codes(self, length: int) -> Codes:
        if self.coded is None:
            raise RuntimeError("the codes of this request were not looked up")
        return self.coded

    def arrow(self, name: str) -> pa.Array:
        """A key, a feature, null where absent, or the codes."""
        if (ids := self.ids.get(name)) is not None:
            return pa.array(ids)
        if name in SECOND and self.second is not None:
            return lists_of(self.second[SECOND.index(name)])
        if name not in CODES:
            return self.columns[name].to_arrow()
        found = self.codes(0)[CODES.index(name)]
        return lists_of(found) if found.ndim > 1 else pa.array(found)
