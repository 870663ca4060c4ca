"""Does the service score a row as it scores joined? Reads: a promoted ranker, keys and request
fields of rows, both stores. Writes: nothing.

Legend: N rows, T tasks.
"""

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.serving.both_paths import TOLERANCE, joined_scores
from adc_features.serving.declared import DeclaredBundle
from adc_features.serving.protocol import RankRequest
from adc_features.store.services.parity import MOST_ROWS, as_requests

_SHOWN = 5
_TIME = "event_timestamp"


def served_parity(
    bundle: DeclaredBundle, rows: pa.Table, now: datetime, *, most: int = MOST_ROWS
) -> dict[str, Any]:
    """Compare the scores that the service gives with those of the same rows joined as of `now`.

    Rows of one user and one request are candidates of one request, as in the service; the offline
    scores are those of all rows at once.

    Parameters
    ----------
    bundle : DeclaredBundle
        A promoted ranker, opened, over a store that was materialized as of `now`.
    rows : pyarrow.Table
        Join keys and request fields, such as `LabelLog.entity_rows`; times are not read.
    now : datetime
        The moment of both, aware.
    most : int
        The first rows are compared, at most so many.

    Returns
    -------
    dict
        `rows`: N. `requests`: how many the service was asked. `max_difference`: the greatest
        difference of a score or of a task's probability. `different`: rows over the tolerance.
        `first_differences`: up to five of them with their keys, and both scores.

    Raises
    ------
    InputError
        There is no row, a column is missing, or as `join_service` raises.
    RequestError
        The service refuses a row.
    """
    if not len(rows):
        raise InputError("there is no row to compare; give keys of at least one")
    rows = rows.slice(0, most)
    if _TIME in rows.column_names:
        rows = rows.drop_columns([_TIME])
    _, offline = joined_scores(bundle, rows, now)
    online, requests = _served_scores(bundle, rows, now)
    gaps = np.abs(offline - online).max(axis=0)
    over = np.flatnonzero(~(gaps <= TOLERANCE))  # also where one of them is no number
    keys = rows.select([*bundle.trained.ranker.user, *bundle.trained.ranker.item])
    return {
        "rows": len(rows),
        "requests": requests,
        "max_difference": float(gaps.max()),
        "different": len(over),
        "first_differences": [
            {
                **keys.slice(row, 1).to_pylist()[0],
                "offline": float(offline[0, row]),
                "served": float(online[0, row]),
            }
            for row in over[:_SHOWN].tolist()
        ],
    }


def _served_scores(bundle: DeclaredBundle, rows: pa.Table, now: datetime) -> tuple[np.ndarray, int]:
    """What the service answers, in the order of the rows, and how many requests that took."""
    ranker, requests = bundle.trained.ranker, 0
    names = ["score", *(f"p_{task.name}" for task in ranker.tasks)]
    answers = np.full((len(names), len(rows)), np.nan)
    for asked in as_requests(
        rows, user=ranker.user, item=ranker.item, request=bundle.reader.request_fields
    ):
        keys = list(zip(*asked.items.values(), strict=True))
        sent = RankRequest(
            user=asked.user,
            items=[dict(zip(asked.items, key, strict=True)) for key in keys],
            request={name: value for name, value in asked.request.items() if value is not None},
        )
        columns = bundle.rank(sent, now=now).columns
        found = zip(*(columns[name] for name in ranker.item), strict=True)
        places = {key: place for place, key in enumerate(found)}
        at = [places[key] for key in keys]
        for line, name in enumerate(names):
            answers[line, asked.members] = np.asarray(columns[name], np.float64)[at]
        requests += 1
    return answers, requests
