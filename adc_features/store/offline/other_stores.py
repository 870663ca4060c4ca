"""Point-in-time joins by Feast's other offline stores.

Reads: a feature store, entity rows. Writes: the features of one view, in the rows' order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import ArtifactError
from adc_features.store.registry import join_key

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore, FeatureView

_ROW = "adc_row"


def joined_by_feast(
    store: FeatureStore, view: FeatureView, frame: pa.Table, *, rows_at_once: int
) -> pa.Table:
    """Feast's own point-in-time join of one view, in the frame's order.

    Only distinct (key, time) pairs are asked, a bounded number at once: the DuckDB store pairs each
    entity row with all of its key's history before it picks the newest row, which for popular items
    is nearly all of the cost.
    """
    from adc_features.store import _compat as feast

    key, names = join_key(view), [field.name for field in view.features]
    pairs = frame.select([key, "event_timestamp"])
    first, place = distinct_rows(pairs)
    asked = pairs.take(pa.array(first)).append_column(_ROW, pa.array(np.arange(len(first))))
    pieces = max(1, -(-len(asked) // rows_at_once))
    joined = []
    for piece in range(pieces):
        rows = np.arange(piece, len(asked), pieces)  # strides spread the popular keys evenly
        with feast.quiet():
            got = store.get_historical_features(
                asked.take(pa.array(rows)).to_pandas(), [f"{view.name}:{name}" for name in names]
            ).to_arrow()
        if not np.array_equal(np.sort(got[_ROW].to_numpy()), rows):
            raise ArtifactError(
                f"the offline store returned {len(got)} rows for {len(rows)}, or others than asked;"
                " set offline_store.type to adc_features.store.offline_store.AsofOfflineStore"
            )
        joined.append(got.select([_ROW, *names]))
    features = pa.concat_tables(joined)
    return features.select(names).take(pa.array(np.argsort(features[_ROW].to_numpy())[place]))


def distinct_rows(pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each distinct row, by the last column first, and every row's place among
    them: int64 [distinct], int64 [N].
    """
    code = np.zeros(len(pairs), np.int64)
    for name in reversed(pairs.column_names):  # the last counts most
        ranks = pc.rank(pairs[name].combine_chunks(), tiebreaker="dense").to_numpy()
        ranks = ranks.astype(np.int64) - 1
        code = code * (int(ranks.max(initial=0)) + 1) + ranks
        _, code = np.unique(code, return_inverse=True)
    _, first, place = np.unique(code, return_index=True, return_inverse=True)
    return first, place
