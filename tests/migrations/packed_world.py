"""Small tables of codes, as columns of SidTable: for the script that packed them long ago, and for
the test that reads them today.
"""

from datetime import UTC, datetime
from typing import Any

import numpy as np

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
SERVABLE_AT = datetime(2024, 3, 2, tzinfo=UTC)
COMPUTED_AT = datetime(2024, 3, 3, tzinfo=UTC)
ROWS = 9


def columns(codebook_size: int, length: int, *, strings: bool) -> dict[str, Any]:
    """Nine items; the third was removed, the last position's weights vary, codes reach K - 1."""
    rng = np.random.default_rng(codebook_size)
    sid = rng.integers(-1, codebook_size, (ROWS, length), dtype=np.int32)
    sid[0] = codebook_size - 1
    weight = (sid >= 0).astype(np.float32)
    weight[:, -1] *= np.linspace(0.25, 0.75, ROWS, dtype=np.float32)
    found = np.ones(ROWS, bool)
    sid[2], weight[2], found[2] = -1, 0, False
    ids = np.arange(ROWS) * 5
    return {
        "item_ids": np.array([f"item {i}" for i in ids]) if strings else ids,
        "sid": sid,
        "sid_weight": weight,
        "reliability": np.where(found, 0.5, 0).astype(np.float32),
        "alignment": np.where(found, 0.25, 0).astype(np.float32),
        "is_cold": ~found,
        "collision_count": found.astype(np.int32),
        "found": found,
        "generation": "g1",
        "codebook_size": codebook_size,
        "as_of": AS_OF,
        "sid_as_of": np.full(ROWS, 1_709_251_200_000_000),
    }


TABLES = {
    "bytes": columns(8, 3, strings=True),
    "two_bytes": columns(300, 4, strings=False),
    "one_wide_code": columns(40_000, 1, strings=False),
}
