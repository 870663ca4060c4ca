"""A small world for the store's tests: three generations' worth of codes, statistics of a few items
and users.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from adc_features.codes.generation import Generation
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import SidSpec

DAY = timedelta(days=1)
START = datetime(2014, 1, 1, tzinfo=UTC)
SPEC = SidSpec(content={"title": 1}, shared=1, behavior=1, codebook_size=10)
ITEMS, USERS = np.array(["a", "b", "c"]), np.array(["u", "v"])


def examples(usually: int) -> int:
    """How many examples an oracle of the join is tried on: $ADC_EXAMPLES, when that is set, for a
    long search.
    """
    return int(os.environ.get("ADC_EXAMPLES", usually))


def day(number: float) -> datetime:
    return START + number * DAY


def generation(
    id: str = "g1", *, codebook: str = "11", trained_through: datetime = START
) -> Generation:
    return Generation(id, "test", SPEC, {}, {}, {}, trained_through, codebook * 32)


def snapshot(
    as_of: datetime,
    code: int,
    *,
    items: Sequence | np.ndarray = ITEMS,
    removed: Sequence = (),
    id: str = "g1",
) -> SidTable:
    """Every item has the codes (code, code, -1) and the weights (1, 0.1, 0); `removed` ones are
    explicit rows without codes.
    """
    items = np.array([*items, *removed])
    found = ~np.isin(items, np.array(removed, items.dtype))
    sid = np.where(found[:, None], np.array([code, code, -1]), -1).astype(np.int32)
    weight = np.where(found[:, None], np.array([1.0, 0.1, 0.0]), 0).astype(np.float32)
    reliability = np.where(found, 0.1, 0).astype(np.float32)
    return SidTable(
        items,
        sid,
        weight,
        reliability,
        reliability,
        ~found,
        found.astype(np.int32) * 2,
        found,
        id,
        SPEC.codebook_size,
        as_of,
    )


def with_second(table: SidTable) -> SidTable:
    """With second codes: at the first position the code after the first one, with probability
    0.25; none elsewhere.
    """
    first = np.arange(table.length) == 0
    some = first & (table.sid >= 0)
    second = np.where(some, (table.sid + 1) % table.codebook_size, -1).astype(np.int32)
    return replace(
        table, sid_second=second, sid_second_weight=np.where(some, 0.25, 0).astype(np.float32)
    )


def times(moments: Sequence[datetime]) -> pa.Array:
    return pa.array(moments, pa.timestamp("us", tz="UTC"))


def item_profile(
    ids: Sequence,
    moments: Sequence[datetime],
    values: Sequence[float],
    *,
    resolution: timedelta = DAY,
) -> pa.Table:
    last = [int((m - resolution).timestamp() * 1_000_000) for m in moments]
    return pa.table(
        {
            "item_id": pa.array(ids),
            "event_timestamp": times(moments),
            "item_label_mean": pa.array(values, pa.float32()),
            "item_event_count": pa.array(range(len(ids)), pa.int64()),
            "item_last_time": pa.array(last, pa.int64()),
            "item_brand": [f"brand {v}" for v in values],
        }
    )


def user_activity(
    ids: Sequence, moments: Sequence[datetime], *, resolution: timedelta = DAY
) -> pa.Table:
    last = [int((m - resolution).timestamp() * 1_000_000) for m in moments]
    return pa.table(
        {
            "user_id": pa.array(ids),
            "event_timestamp": times(moments),
            "user_last_time": pa.array(last, pa.int64()),
            "user_recent_items": pa.array(
                [["a"] * (i % 3) for i in range(len(ids))], pa.list_(pa.string())
            ),
            "user_recent_labels": pa.array(
                [[0.1] * (i % 3) for i in range(len(ids))], pa.list_(pa.float32())
            ),
        }
    )


def frame(rows: Sequence[tuple[str, str, datetime]]) -> pa.Table:
    """An entity frame of (user, item, time) rows with a column of its own."""
    users, items, moments = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "item_id": pa.array(items, pa.string()),
            "event_timestamp": times(moments),
            "label": pa.array(range(len(rows)), pa.int64()),
        }
    )


def published_world(directory: Path) -> Path:
    """g1 with cut-offs on days 10 (code 1) and 20 (code 2), g2 with a cut-off on day 20 (code 7),
    statistics; applied.
    """
    from adc_features import store

    store.create_repository(directory, project="world")
    for id, codebook, cuts in (("g1", "11", ((10, 1), (20, 2))), ("g2", "22", ((20, 7),))):
        tables = [snapshot(day(at), code, id=id) for at, code in cuts]
        store.publish(
            directory,
            generation(id, codebook=codebook, trained_through=day(20)),
            tables,
            servable_at=[t.as_of + DAY / 4 for t in tables],
            computed_at=day(30),
        )
    publish_default_statistics(directory)
    store.apply(directory)
    return directory


def publish_default_statistics(repo: Path) -> None:
    from adc_features import store

    profile = item_profile(
        ["a", "a", "b", "a"], [day(5), day(15), day(15), day(25)], [0.1, 0.2, 0.3, 0.4]
    )
    store.publish_statistics(
        repo,
        item_profile=profile,
        user_activity=user_activity(["u", "u", "v"], [day(5), day(15), day(15)]),
        resolution=DAY,
    )
