"""Does serving return what training saw?
Reads: offline rows and the online store. Writes: nothing.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.clock import instant
from adc_features.codes.embeddings import id_array
from adc_features.codes.rows import utc_array
from adc_features.errors import ParityError
from adc_features.store.history import features_as_of
from adc_features.store.online import OnlineReader
from adc_features.store.registry import join_key, open_store, service_views

_SHOWN = 10


def parity(
    repo: Path, *, service: str, item_ids: np.ndarray, user_ids: np.ndarray, now: datetime
) -> dict[str, Any]:
    """Compare what is online with what the offline store says as of a moment, bit for bit.

    Parameters
    ----------
    repo : Path
        A Feast repository that was materialized as of `now`.
    service : str
        A feature service; all of its features are compared.
    item_ids, user_ids : numpy.ndarray
        The ids to compare: int64 or str, of the published types; may be empty.
    now : datetime
        The moment that was materialized, aware.

    Returns
    -------
    dict
        `items` and `users`: ids compared. `different`: how many of them differ in any feature.
        `first_differences`: up to ten of them, each with id, `feature`, `offline` and `online`.

    Raises
    ------
    InputError
        The service is not applied, ids are of another type, or `now` has no time zone.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> items, users = np.array(["a", "b"]), np.array(["u"])
    >>> now = datetime(2014, 1, 31, tzinfo=UTC)
    >>> parity(repo, service="ranker_g1", item_ids=items, user_ids=users, now=now)["different"]
    0

    Source
    ------
    Feast promises the same values offline and online, and does not compare them:
    https://docs.feast.dev/getting-started/concepts/point-in-time-joins
    """
    store = open_store(repo)
    report: dict[str, Any] = {
        "items": len(item_ids),
        "users": len(user_ids),
        "different": 0,
        "first_differences": [],
    }
    for key, asked in (("item_id", item_ids), ("user_id", user_ids)):
        views = [view for view in service_views(store, service) if join_key(view) == key]
        if not views or not len(asked):
            continue
        ids = id_array(pa.array(asked))
        frame = pa.table(
            {key: pa.array(ids), "event_timestamp": utc_array(np.full(len(ids), instant(now)))}
        )
        offline = features_as_of(repo, store, views, frame)
        online = OnlineReader(repo, store, views).read(**{f"{key}s": ids})
        differs = {name: _different(offline[name], online[name]) for name in offline.column_names}
        report["different"] += int(np.logical_or.reduce(list(differs.values())).sum())
        for name, mask in differs.items():
            for row in np.flatnonzero(mask)[: _SHOWN - len(report["first_differences"])]:
                values = {
                    "offline": offline[name][row].as_py(),
                    "online": online[name][row].as_py(),
                }
                report["first_differences"].append(
                    {key: ids[row].item(), "feature": name, **values}
                )
    return report


def require_parity(report: dict[str, Any]) -> None:
    """Raise when a report of `parity` holds differences.

    Parameters
    ----------
    report : dict
        What `parity` returned.

    Raises
    ------
    ParityError
        Its `first_differences` are those of the report.

    Examples
    --------
    >>> require_parity({"items": 3, "users": 2, "different": 0, "first_differences": []})

    Source
    ------
    As `parity`.
    """
    if report["different"]:
        raise ParityError(
            f"{report['different']} of {report['items']} items and {report['users']} users differ"
            f" online from offline, first {report['first_differences'][0]}; materialize the"
            " repository as of the compared moment, then compare again",
            first_differences=report["first_differences"],
        )


def _different(offline: pa.ChunkedArray, online: pa.ChunkedArray) -> np.ndarray:
    """Which rows differ in type or in any bit: bool [N].

    Null differs from every value, NaN equals the same NaN.
    """
    if offline.type != online.type:
        return np.ones(len(offline), bool)
    pairs = zip(_bits(offline).to_pylist(), _bits(online).to_pylist(), strict=True)
    return np.fromiter((a != b for a, b in pairs), bool, len(offline))


def _bits(column: pa.ChunkedArray) -> pa.Array:
    """Floats as integers of the same bits, so that -0.0 and 0.0 differ and NaN equals itself."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    integers = {pa.float32(): pa.int32(), pa.float64(): pa.int64()}
    if pa.types.is_list(array.type) and array.type.value_type in integers:
        return array.cast(array.type).view(pa.list_(integers[array.type.value_type]))
    return array.view(integers[array.type]) if array.type in integers else array
