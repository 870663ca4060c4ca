"""What the installation without extras promises, run by test_wheel.py in a fresh environment.

Arguments: a directory to work in. Prints what it did as JSON.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from feast import FeatureStore
from store_world import DAY, day, frame, published_world

from adc_features import store
from adc_features.errors import MissingExtraError
from adc_features.loader import Columns, Order, ParquetGroups, array_batches

HEAVY = [
    "torch",
    "xgboost",
    "scipy",
    "sklearn",
    "altair",
    "vl_convert",
    "transformers",
    "duckdb",
    "alembic",
]


def main() -> None:
    repo = published_world(Path(sys.argv[1]) / "repository")
    store.materialize(repo, now=day(40))
    rows = frame([("u", "a", day(12)), ("v", "b", day(21)), ("u", "stranger", day(21))])
    joined = store.training_features(repo, rows, service=store.service_name("g1"))
    path = Path(sys.argv[1]) / "rows.parquet"
    pq.write_table(joined, path)
    columns = Columns(("label",), lists={"sid": 3, "sid_weight": 3}, codes={"sid": 10})
    batches = list(array_batches(ParquetGroups(path), columns, Order(2, seed=None)))

    feast = FeatureStore(repo_path=str(repo))
    service = feast.get_feature_service(store.service_name("g1"))
    online = feast.get_online_features(service, [{"item_id": "a", "user_id": "u"}]).to_dict()
    history = feast.get_historical_features(rows.to_pandas(), service).to_df()
    looked_up = store.lookup(repo, "g1", np.array(["a", "stranger"]), now=day(40))
    with_extras = {}
    for name, code in {
        "train": "from adc_features.tokenizer.fit import fit",
        "serve": "from adc_features.loader import quantile_matrix",
    }.items():
        try:
            exec(code)
        except MissingExtraError as error:
            with_extras[name] = str(error)
    print(
        json.dumps(
            {
                "installed": [name for name in HEAVY if importlib.util.find_spec(name)],
                "plugins": [
                    type(feast._provider.offline_store).__name__,
                    type(feast._provider.online_store).__name__,
                    type(feast._provider.batch_engine).__name__,
                ],
                "joined": joined["sid"].to_pylist(),
                "batches": [[type(b["sid"]).__name__, b["sid"].tolist()] for b in batches],
                "online": [values[0] for name, values in online.items() if name.endswith("sid")],
                "history": len(history),
                "lookup": [looked_up.sid.tolist(), looked_up.found.tolist()],
                "extras": with_extras,
                "day": DAY.days,
            }
        )
    )


main()
