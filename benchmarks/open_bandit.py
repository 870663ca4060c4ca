"""Clicks of a fashion shop through the declared path. Reads: the Open Bandit sample.
Writes: a Feast repository, JSON.

    pip download --no-deps obp==0.4.1 && unzip obp-0.4.1-py3-none-any.whl "obp/dataset/obd/*"
    python benchmarks/open_bandit.py --data obp/dataset/obd --work build/open_bandit --json -

The package `obp` 0.4.1 (Apache 2.0) carries 10,000 impressions for each of two policies and three
campaigns, with 287 clicks. Items have a view of attributes and one of what was shown and clicked so
far. Users have no id, so that who they are comes with the request. The position is known in
training alone. `weighted` learns from each row with the weight that it would have had if every item
of its campaign had been shown equally often.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from _declared_path import adc, feast, so_far, train_and_judge, utc, write_files
from _measure import write_report
from pyarrow import csv

POLICIES, CAMPAIGNS = ("random", "bts"), ("all", "men", "women")
START = np.datetime64("2019-11-24")
MAX_WEIGHT = 10.0
USER, ITEM = (tuple(f"{of}_feature_{n}" for n in range(4)) for of in ("user", "item"))
SMOOTHING = 200.0
"""Impressions without a click that are added to those of an item, for its rate."""

CONFIG = """\
project: open_bandit
provider: local
registry: registry.db
offline_store:
  type: duckdb
online_store:
  type: sqlite
  path: online.db
entity_key_serialization_version: 3
"""

DEFINITIONS = '''\
"""The items of the shop, and what was known of them when."""
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)


def view(name, fields):
    path = str(Path(__file__).parent / f"{name}.parquet")
    source = FileSource(name=name, path=path, timestamp_field="event_timestamp")
    schema = [Field(name="item_id", dtype=String), *fields]
    return FeatureView(
        name=name, entities=[item], ttl=timedelta(0), source=source, schema=schema
    )


attributes = view("attributes", [
    Field(name="campaign", dtype=String),
    Field(name="item_feature_0", dtype=Float64),
    *[Field(name=f"item_feature_{n}", dtype=String) for n in (1, 2, 3)],
])
so_far = view("so_far", [
    Field(name="shown", dtype=Int64, tags={"adc.log": "true"}),
    Field(name="click_rate", dtype=Float64),
])
shop_v1 = FeatureService(name="shop_v1", features=[attributes, so_far])
'''

RANKERS = '''\
"""With and without the user, and with weights against the choices of the policies."""
from adc_features.inputs.declaration import Ranker, Task, category, infer, number

COMMON = {"service": "shop_v1", "tasks": [Task("click")], "item": ["item_id"]}
POSITION = {"position": category(request=True, train_only=True, default=2, min_count=1)}
USER = {
    **{f"user_feature_{n}": category(request=True) for n in range(4)},
    "past_clicks": number(request=True, log=True),
}
items_only = Ranker(name="items_only", inputs=infer() | POSITION, **COMMON)
with_user = Ranker(
    name="with_user", inputs=infer() | POSITION | USER, gates=["user_feature_0"], **COMMON
)
weighted = Ranker(
    name="weighted", inputs=infer() | POSITION | USER, gates=["user_feature_0"],
    sample_weight="sample_weight", **COMMON,
)
trees = Ranker(name="trees", inputs=infer() | POSITION | USER, model="xgboost", **COMMON)
'''


class Sample(NamedTuple):
    """log: one row an impression, by time. attributes: one row an item."""

    log: pa.Table
    attributes: pa.Table


def read_sample(folder: Path) -> Sample:
    """All impressions of both policies, and the items of the three campaigns.

    Items of two campaigns are two items. Their hashed attributes differ between the folders of both
    policies, so those of `random` are taken.
    """
    logs, items = [], []
    for campaign in CAMPAIGNS:
        context = csv.read_csv(folder / "random" / campaign / "item_context.csv")
        items.append(
            {
                "item_id": _ids(campaign, context),
                "campaign": [campaign] * len(context),
                **{name: context[name].to_pylist() for name in ITEM},
            }
        )
        for policy in POLICIES:
            rows = csv.read_csv(folder / policy / campaign / f"{campaign}.csv")
            affinity = [c for c in rows.column_names if c.startswith("user-item_affinity_")]
            propensity = rows["propensity_score"].to_numpy()
            logs.append(
                {
                    "event_timestamp": rows["timestamp"].cast(pa.timestamp("us", tz="UTC")),
                    "item_id": _ids(campaign, rows),
                    "position": rows["position"],
                    "click": rows["click"],
                    "sample_weight": np.minimum(1 / len(context) / propensity, MAX_WEIGHT),
                    "past_clicks": np.sum([rows[c].to_numpy() for c in affinity], axis=0),
                    **{name: rows[name] for name in USER},
                }
            )
    log = pa.concat_tables([pa.table(part) for part in logs]).sort_by("event_timestamp")
    return Sample(log, pa.concat_tables([pa.table(part) for part in items]))


def _ids(campaign: str, table: pa.Table) -> list[str]:
    return [f"{campaign}-{n}" for n in table["item_id"].to_pylist()]


def views(sample: Sample) -> dict[str, pa.Table]:
    """The rows of both views: attributes from the first day on, and the state after each moment."""
    log = sample.log
    keys = np.array(log["item_id"].to_pylist())
    times = log["event_timestamp"].to_numpy().astype("datetime64[us]")
    known = so_far(keys, times)
    clicks = known.total(log["click"].to_numpy())
    first = np.full(len(sample.attributes), START)
    return {
        "attributes": sample.attributes.append_column("event_timestamp", utc(first)),
        "so_far": pa.table(
            {
                "item_id": keys[known.order[known.last]],
                "event_timestamp": utc(known.known),
                "shown": known.count,
                "click_rate": clicks / (known.count + SMOOTHING),
            }
        ),
    }


def write_repository(folder: Path, sample: Sample) -> Path:
    """The repository and, inside it, the label log, whose path is returned."""
    files = {"feature_store.yaml": CONFIG, "shop.py": DEFINITIONS, "rankers.py": RANKERS}
    write_files(folder, {**views(sample), "impressions": sample.log}, files)
    return folder / "impressions.parquet"


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Everything, by the commands that a user has."""
    repo = asked.work / "repo"
    sample = read_sample(asked.data)
    labels = write_repository(repo, sample)
    feast(repo, "apply")
    options = {"seeds": asked.seeds, "final": asked.final}
    found = train_and_judge(repo, labels, "with_user", asked.work, **options)
    feast(repo, "materialize", "2019-11-23", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    at = ["--repo", str(repo), "--ranker", "with_user"]
    found["promote"] = adc(asked.work, "promote", *at)
    return found | {"rows": len(sample.log), "clicks": sum(sample.log["click"].to_pylist())}


def main() -> None:
    """Build, train, judge and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder obp/dataset/obd")
    parser.add_argument("--work", type=Path, required=True, help="a new folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--final", action="store_true", help="also judge on the test rows")
    parser.add_argument("--json", default="-", help="file, or - for standard output")
    asked = parser.parse_args()
    write_report(asked.json, systems={}, ratios={}, **measure(asked))


if __name__ == "__main__":
    main()
