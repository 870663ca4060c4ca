"""A catalogue of six items whose codes can be counted by hand, with titles, in two generations.

item  events labels   g1, day 10    g1, day 20    g2, day 20    weight of the last position
a     10     5        1 1 -         1 1 4         7 1 4         0.9
b      6     3        1 2 -         1 1 4         7 1 4         0.5
c      3     3        2 2 5         2 2 5         8 2 5         0.2
d      1     0        2 3 5         2 3 5         8 3 5         0.1
e      -     -        3 3 -         3 3 -         3 3 -         0
f      -     -        not yet       1 1 4         7 1 4         0.7
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from store_world import DAY, day, generation, times, user_activity

from adc_features import store
from adc_features.codes.sids import SidTable
from adc_features.parquet_files import write_table

EARLY = {"a": (1, 1, -1), "b": (1, 2, -1), "c": (2, 2, 5), "d": (2, 3, 5), "e": (3, 3, -1)}
LATE = {**EARLY, "a": (1, 1, 4), "b": (1, 1, 4), "f": (1, 1, 4)}
RENAMED = {item: ({1: 7, 2: 8}.get(x, x), y, z) for item, (x, y, z) in LATE.items()}
LAST_WEIGHT = {"a": 0.9, "b": 0.5, "c": 0.2, "d": 0.1, "e": 0.0, "f": 0.7}
TITLES = {
    "a": "Green tea",
    "b": "Green soap",
    "c": "Black tea",
    "d": "Kettle",
    "e": "Teapot",
    "f": "Green mug",
}


def sids(codes: dict[str, tuple[int, ...]], at: int, id: str = "g1") -> SidTable:
    """A snapshot of these codes."""
    sid = np.array(list(codes.values()), np.int32)
    last = [LAST_WEIGHT[item] for item in codes]
    weight = np.where(sid >= 0, np.stack([np.ones(len(sid)), np.ones(len(sid)), last], 1), 0)
    same = np.array([list(codes.values()).count(one) for one in codes.values()], np.int32)
    return SidTable(
        np.array(list(codes)),
        sid,
        weight.astype(np.float32),
        np.array(last, np.float32),
        np.array(last, np.float32),
        sid[:, 2] < 0,
        same,
        np.ones(len(sid), bool),
        id,
        10,
        day(at),
    )


def titles_table(titles: dict[str, str] = TITLES) -> pa.Table:
    """Items with titles, and a brand but for the first."""
    brands = [None, *("brand" for _ in list(titles)[1:])]
    return pa.table({"item_id": list(titles), "title": list(titles.values()), "brand": brands})


def explored_repository(directory: Path) -> tuple[Path, Path]:
    """The repository and the table of titles."""
    repo = directory / "repo"
    store.create_repository(repo, project="explored")
    for id, codebook, tables in (
        ("g1", "11", [sids(EARLY, 10), sids(LATE, 20)]),
        ("g2", "22", [sids(RENAMED, 20, "g2")]),
    ):
        store.publish(
            repo,
            generation(id, codebook=codebook, trained_through=day(20)),
            tables,
            servable_at=[t.as_of + DAY / 4 for t in tables],
            computed_at=day(30),
        )
    rows = [("a", 5, 4, 2.0), ("b", 5, 6, 3.0), ("a", 15, 10, 5.0), ("c", 15, 3, 3.0)]
    rows.append(("d", 15, 1, 0.0))
    ids, days, events, labels = zip(*rows, strict=True)
    profile = pa.table(
        {
            "item_id": list(ids),
            "event_timestamp": times([day(n) for n in days]),
            "item_event_count": pa.array(events, pa.int64()),
            "item_label_sum": pa.array(labels, pa.float32()),
            "item_last_time": pa.array(
                [int((day(n) - DAY).timestamp() * 1_000_000) for n in days], pa.int64()
            ),
        }
    )
    activity = user_activity(["u"], [day(5)])
    store.publish_statistics(repo, item_profile=profile, user_activity=activity, resolution=DAY)
    table = directory / "titles.parquet"
    write_table(titles_table(), table)
    return repo, table
