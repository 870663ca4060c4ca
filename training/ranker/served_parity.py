"""Does the service score a row as it scores joined? Reads: a promoted ranker, keys and request
fields of rows, both stores. Writes: nothing.

Legend: N rows, T tasks.
"""

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.clock import instant
from adc_features.errors import InputError
from adc_features.inputs.rows import Parts
from adc_features.serving.declared import DeclaredBundle
from adc_features.serving.protocol import RankRequest
from adc_features.store.services.schema import service_schema
from adc_features.store.services.training_rows import join_service

MOST_ROWS = 1_000
"""Rows that are compared unless more are asked for."""
TOLERANCE = 1e-6
"""Greatest difference of two scores, or two probabilities, of the same row."""
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
    offline = _joined_scores(bundle, rows, now)
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


def _joined_scores(bundle: DeclaredBundle, rows: pa.Table, now: datetime) -> np.ndarray:
    """The score and P(task) of rows as training joins them: float64 [1 + T, N]."""
    trained, repo = bundle.trained, bundle.promotion.repository
    times = np.full(len(rows), instant(now))
    if _TIME in rows.column_names:
        rows = rows.drop_columns([_TIME])
    rows = rows.append_column(_TIME, pa.array(times, pa.timestamp("us", "UTC")))
    schema = service_schema(repo, trained.ranker.service)
    table = join_service(repo, schema, rows, features=trained.features)
    timeline = None if bundle.sids is None else bundle.sids.timeline()
    encoded = trained.encoder.encode(Parts.joined(table, times, timeline=timeline))
    score, probability = trained.served(encoded)
    return np.vstack([score, probability])


def _served_scores(bundle: DeclaredBundle, rows: pa.Table, now: datetime) -> tuple[np.ndarray, int]:
    """What the service answers, in the order of the rows, and how many requests that took."""
    ranker = bundle.trained.ranker
    fields = [name for name in bundle.reader.request_fields if name in rows.column_names]
    # a table without columns has no rows
    shared = rows.select([*ranker.user, *fields]).to_pylist() or [{}] * len(rows)
    items = rows.select(list(ranker.item)).to_pylist()
    requests: dict[str, list[int]] = {}
    for row, values in enumerate(shared):
        requests.setdefault(repr(values), []).append(row)
    names = ["score", *(f"p_{task.name}" for task in ranker.tasks)]
    answers = np.full((len(names), len(rows)), np.nan)
    for members in requests.values():
        values = shared[members[0]]
        asked = RankRequest(
            user={name: values[name] for name in ranker.user},
            items=[items[row] for row in members],
            request={name: values[name] for name in fields if values[name] is not None},
        )
        columns = bundle.rank(asked, now=now).columns
        found = zip(*(columns[name] for name in ranker.item), strict=True)
        places = {keys: place for place, keys in enumerate(found)}
        at = [places[tuple(items[row][name] for name in ranker.item)] for row in members]
        for line, name in enumerate(names):
            answers[line, members] = np.asarray(columns[name], np.float64)[at]
    return answers, len(requests)
