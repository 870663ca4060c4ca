"""Small served logs and what came of them. Writes: logs, events."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.served.log import LogSettings, ServedLog
from adc_features.served.record import About, Served

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
ABOUT = About(
    "feed", "toys", ("customer",), ("sku",), (("stock__price", "Float32"),), (), ("click",)
)


def minutes(count: float) -> datetime:
    """So long after NOON."""
    return NOON + timedelta(minutes=count)


def record(
    request_id: str,
    *,
    scores: Sequence[float] = (0.1, 0.9, 0.5),
    received: datetime = NOON,
    answered: int = 2,
    ranker: str = "toys",
    user: str = "c1",
    variant: str | None = None,
) -> Served:
    """An answer over the items 0, 1, ..."""
    n = len(scores)
    about = About(ABOUT.service, ranker, ABOUT.user, ABOUT.item, ABOUT.features, (), ABOUT.tasks)
    return Served(
        about=about,
        request_id=request_id,
        received=received,
        now=received,
        served_as_of=None,
        version="v1",
        pair=f"{variant or 'v1'}@none",
        generation=None,
        variant=variant,
        answered=answered,
        user_known=True,
        one=pa.table({"customer": [user]}),
        each=pa.table(
            {
                "sku": pa.array(range(n), pa.int64()),
                "stock__price": pa.array(np.arange(n), pa.float32()),
            }
        ),
        score=np.array(scores),
        tasks={"click": np.array(scores)},
        known=np.ones(n, bool),
    )


def logged(directory: Path, *records: Served, **settings: Any) -> Path:
    """A log of these records."""
    log = ServedLog(directory, LogSettings(**settings))
    for one in records:
        log.offer(one)
    log.close()
    return directory


def events(*rows: tuple[Any, ...]) -> pa.Table:
    """(request, sku, event, time[, id]) each."""
    schema = pa.schema(
        {
            "request_id": pa.string(),
            "sku": pa.int64(),
            "event": pa.string(),
            "event_timestamp": pa.timestamp("us", "UTC"),
            "event_id": pa.string(),
        }
    )
    names = schema.names
    return pa.Table.from_pylist(
        [dict(zip(names, (*row, None)[:5], strict=True)) for row in rows], schema
    )
