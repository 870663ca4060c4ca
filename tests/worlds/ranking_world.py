"""A small world whose truth is known: items in groups, codes that name the group, labels that
follow it or do not.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.sids import SidTable, SidTimeline
from adc_features.data.statistics import item_profile, user_activity
from adc_features.loader.frame import TrainingFrame, label_table, training_frame
from adc_features.ranking.recipes import Sources
from training.vectors import VectorTimeline

DAY = timedelta(days=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
ITEMS, GROUPS, CODES, LENGTH = 60, 4, 8, 3
GENERATION = "g1"


def day(number: int) -> datetime:
    return START + number * DAY


def group_of(item: np.ndarray) -> np.ndarray:
    return item % GROUPS


def catalogue() -> pa.Table:
    names = [f"i{n:02d}" for n in range(ITEMS)]
    return pa.table(
        {
            "item_id": names,
            "brand": [f"b{n % 7}" for n in range(ITEMS)],
            "category": [f"c{n % 5}" for n in range(ITEMS)],
        }
    )


def interactions(rows: int, *, seed: int, informative: bool = True) -> pa.Table:
    """Each user likes one group of items; without `informative` the labels are coin flips."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 80, rows), rng.integers(0, ITEMS, rows)
    logit = (
        2.0 * (group_of(item) == 0) - 2.0 * (group_of(item) == 1) + np.where(user % 2, 0.8, -0.3)
    )
    share = 1 / (1 + np.exp(-logit)) if informative else np.full(rows, 0.6)
    times = pa.array(
        [day(int(d)) for d in np.sort(rng.integers(0, 120, rows))], pa.timestamp("us", tz="UTC")
    )
    return pa.table(
        {
            "user_id": [f"u{n}" for n in user],
            "item_id": [f"i{n:02d}" for n in item],
            "time": times,
            "label": pa.array((rng.random(rows) < share).astype(np.float32)),
        }
    )


def snapshots(generation: str = GENERATION) -> SidTimeline:
    """Codes from day 20 on; from day 70 on with other weights. The first position names the group;
    the last three items are cold. The second code is the one after the first.
    """
    item = np.arange(ITEMS)
    sid = np.stack([group_of(item), item % CODES, (item * 3) % CODES], axis=1).astype(np.int32)
    cold = item >= ITEMS - 3
    sid[cold, 2] = -1
    tables = []
    for place, scale in ((20, 1.0), (70, 0.5)):
        weight = np.stack(
            [np.ones(ITEMS), np.ones(ITEMS), scale * (1 + item / ITEMS)], axis=1
        ).astype(np.float32) * (sid >= 0)
        reliability = np.where(cold, 0, item / ITEMS).astype(np.float32)
        ones = np.ones(ITEMS, np.int32)
        tables.append(
            SidTable(
                item_ids=np.array([f"i{n:02d}" for n in item]),
                sid=sid,
                sid_weight=weight,
                reliability=reliability,
                alignment=reliability,
                is_cold=cold,
                collision_count=ones,
                found=ones.astype(bool),
                generation=generation,
                codebook_size=CODES,
                as_of=day(place),
                sid_second=np.where(sid >= 0, (sid + 1) % CODES, -1).astype(np.int32),
                sid_second_weight=np.where(sid >= 0, 0.1 * scale, 0).astype(np.float32),
            )
        )
    return SidTimeline(tables, [day(20), day(70)])


def vectors() -> VectorTimeline:
    rng = np.random.default_rng(3)
    ids = np.array([f"i{n:02d}" for n in range(ITEMS)])
    text = rng.normal(size=(ITEMS, 6)).astype(np.float32)
    tables = []
    for place in (20, 70):
        present = np.arange(ITEMS) % 10 != 9
        behavior = rng.normal(size=(ITEMS, 4)).astype(np.float32) * present[:, None]
        tables.append(
            EmbeddingTable(
                ids,
                {"text": text, "behavior": behavior},
                {"text": np.ones(ITEMS, bool), "behavior": present},
                np.arange(ITEMS),
                day(place),
            )
        )
    return VectorTimeline(tables, [day(20), day(70)])


def sources() -> Sources:
    return Sources(sids=snapshots(), vectors=vectors())


def as_of(left: pa.Table, right: pa.Table, key: str) -> pa.Table:
    """The newest row of `right` for each row of `left`, as pandas joins it."""
    rows = (
        right.select([key, "event_timestamp"])
        .to_pandas()
        .assign(row=np.arange(len(right), dtype=float))
    )
    found = (
        pd.merge_asof(
            left.select(["row_id", key, "event_timestamp"]).to_pandas(),
            rows,
            on="event_timestamp",
            by=key,
        )
        .sort_values("row_id")["row"]
        .to_numpy()
    )
    return right.drop_columns([key, "event_timestamp"]).take(
        pa.array(np.nan_to_num(found).astype(int), mask=np.isnan(found))
    )


def frame(log: pa.Table, *, generation: str = GENERATION) -> TrainingFrame:
    """The log's rows with everything that was known at their time."""
    labels = table = label_table(log)
    for right, key in (
        (user_activity(log, catalogue(), resolution=DAY), "user_id"),
        (item_profile(log, catalogue(), resolution=DAY, refresh_at=[day(0), day(60)]), "item_id"),
    ):
        joined = as_of(labels, right, key)
        for name in joined.column_names:
            table = table.append_column(name, joined[name])
    timeline = snapshots(generation)
    items, times = (
        labels["item_id"].to_numpy().astype(str),
        labels["event_timestamp"].to_numpy().astype("datetime64[us]"),
    )
    sid, weight, reliability = timeline.gather(items, times)
    columns = {
        "sid": pa.array(list(sid)),
        "sid_weight": pa.array(list(weight)),
        "reliability": pa.array(reliability),
    }
    for name, told in zip(
        ("sid_second", "sid_second_weight"), timeline.gather_second(items, times), strict=True
    ):
        columns[name] = pa.array(list(told))
    for name, column in columns.items():
        table = table.append_column(name, column)
    return training_frame(table, labels, generation=generation, codebook_size=CODES, resolution=DAY)
