"""The partition of an event, by the hash of its key. Reads: Arrow tables. Writes: nothing."""

from zlib import crc32

import numpy as np
import pyarrow as pa

from adc_features.aggregates.declaration import EventStream
from adc_features.aggregates.keys import different_keys


def buckets(
    stream: EventStream, table: pa.Table, columns: tuple[str, ...], count: int
) -> np.ndarray:
    """int64 [N]: the partition of each row by these columns, the same on every machine. Rows of an
    unknown attribute, which belong to no key, are spread evenly.
    """
    keyed = different_keys(stream, table, columns, ordered=False)
    hashed = np.array([crc32(key) % count for key in keyed.keys] + [0], np.int64)
    return np.where(keyed.code >= 0, hashed[keyed.code], np.arange(len(table)) % count)
