"""Rows of a view into Feast's Redis store, from Arrow. Reads: Arrow tables. Writes: Redis hashes,
byte for byte those of Feast's own `RedisOnlineStore`, which reads them.

The commands of many rows are made as one column of bytes and sent as they are: no protocol buffer,
no Python object for a value. As with Feast, a row that is no newer than what is stored is left out,
unless the store is configured not to look.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.store import _compat as feast
from adc_features.store.byte_columns import joined, lengths
from adc_features.store.lmdb.feature_values import (
    keys_from_arrow,
    kind_of,
    schema_of,
    takes_arrow,
)
from adc_features.store.lmdb.incoming import rows_of
from adc_features.store.lmdb.row_table import Rows
from adc_features.store.redis_values import KEY_KINDS, key_bytes, time_bytes, time_of, value_bytes

SENT_ROWS = 10_000
"""Rows whose commands and replies are on their way at a time."""


def takes_rows(store: Any, config: Any, view: Any) -> bool:
    """Whether `write_rows` can write this view: the store is Feast's own on one Redis server or
    behind sentinels (a cluster has many connections), its keys are of version 3, and every type is
    plain.
    """
    kind = type(store)
    if (kind.__module__, kind.__name__) != ("feast.infra.online_stores.redis", "RedisOnlineStore"):
        return False
    keys = [kind_of(column.dtype.to_value_type()) for column in view.entity_columns]
    return (
        config.online_store.redis_type.value != "redis_cluster"
        and config.entity_key_serialization_version == 3
        and all(key in KEY_KINDS for key in keys)
        and view.entity_columns[0].name != feast.DUMMY_ENTITY_ID
        and takes_arrow(view)
    )


def write_rows(
    store: Any, config: Any, view: Any, table: pa.Table, *, event: str, created: str | None = None
) -> int:
    """Write a table's rows, of each key the newest by (event, created), into Redis.

    Parameters
    ----------
    store : feast.infra.online_stores.redis.RedisOnlineStore
    config : feast.RepoConfig
    view : feast.FeatureView
        One that `takes_rows`.
    table : pyarrow.Table
        A column for each join key and feature. A later table's row of the same key and event time
        changes nothing, whenever it was created: give such rows together.
    event, created : str, str or None
        The columns of event and created times; naive times mean UTC.

    Returns
    -------
    int
        How many rows were newer than what was there.

    Raises
    ------
    InputError
        Columns are missing, keys or times null, or values do not fit their type.
    redis.RedisError
        The server refused a command or went away; the rows before it are written.
    """
    rows = rows_of(view, table, event=event, created=created)
    places = np.sort(rows.newest_by_key())
    if len(places) < len(table):
        rows, table = rows.take(places), table.take(pa.array(places))
    keys = _keys(config, view, table)
    name = feast.compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    written, settings = 0, config.online_store
    with _connection(store, config) as connection:
        for start in range(0, len(table), SENT_ROWS):
            some = np.arange(start, min(start + SENT_ROWS, len(table)))
            sent = keys.take(pa.array(some))
            if not settings.skip_dedup:
                newer = _newer(connection, sent, rows.event[some], f"_ts:{name}".encode())
                some, sent = some[newer], sent.filter(pa.array(newer))
            commands = _hashes(view, name, sent, rows.take(some))
            if settings.key_ttl_seconds:
                ttl = str(settings.key_ttl_seconds).encode()
                commands = joined(commands, b"*3\r\n$6\r\nEXPIRE\r\n", _bulk(sent), _bulk(ttl))
            each = 2 if settings.key_ttl_seconds else 1
            _replies(connection, commands, each * len(some))
            written += len(some)
    return written


@contextmanager
def _connection(store: Any, config: Any) -> Iterator[Any]:
    """One of the client's connections; closed where replies may still be on their way."""
    pool = feast.redis_client(store, config).connection_pool
    connection = pool.get_connection()
    try:
        yield connection
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


def _keys(config: Any, view: Any, table: pa.Table) -> pa.LargeBinaryArray:
    kinds = {c.name: kind_of(c.dtype.to_value_type()) for c in view.entity_columns}
    columns = {n: c.combine_chunks() for n, c in keys_from_arrow(view, table).items()}
    return key_bytes(columns, kinds, project=config.project)


def _newer(
    connection: Any, keys: pa.LargeBinaryArray, times: np.ndarray, field: bytes
) -> np.ndarray:
    """bool [N]: rows whose event time, int64 [N], is after that which Redis has."""
    commands = joined(b"*3\r\n$4\r\nHGET\r\n", _bulk(keys), _bulk(field))
    found = _replies(connection, commands, len(keys))
    known = {message: time_of(message) for message in set(found) if message}
    stored = np.array([known[m] if m else 0 for m in found], np.int64)
    return (stored <= 0) | (times > stored)  # Feast takes 1970 and before for no time, too


def _hashes(view: Any, name: str, keys: pa.LargeBinaryArray, rows: Rows) -> pa.LargeBinaryArray:
    """The command of each row that sets its hash."""
    features = schema_of(view).features
    parts: list[pa.Array | bytes] = [
        b"*%d\r\n$4\r\nHSET\r\n" % (4 + 2 * len(features)),
        _bulk(keys),
        _bulk(f"_ts:{name}".encode()),
        _bulk(time_bytes(rows.event)),
    ]
    for feature, kind in features:
        column = rows.columns[feature]
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        parts.append(_bulk(feast._mmh3(f"{name}:{feature}")))
        parts.append(_bulk(value_bytes(whole, kind, name=f"view {view.name}: {feature}")))
    return joined(*parts)


def _bulk(content: pa.LargeBinaryArray | bytes) -> Any:
    """Bytes as Redis's protocol frames them, of one or of each row."""
    if isinstance(content, bytes):
        return b"$%d\r\n%b\r\n" % (len(content), content)
    size = pa.array(lengths(content)).cast(pa.string()).cast(pa.binary()).cast(pa.large_binary())
    return joined(b"$", size, b"\r\n", content, b"\r\n")


def _replies(connection: Any, commands: pa.LargeBinaryArray, count: int) -> list[Any]:
    """Send commands and read their replies; one that says an error is raised."""
    if not count:
        return []
    offsets = np.frombuffer(commands.buffers()[1], np.int64)
    begin, end = offsets[commands.offset], offsets[commands.offset + len(commands)]
    connection.send_packed_command([memoryview(commands.buffers()[2])[begin:end]])
    return [connection.read_response(disable_decoding=True) for _ in range(count)]
