"""Artefacts of a live service, for flips: events, live rows, a served log. Reads: nothing. Writes:
a repository and a log beside a run.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _live import declared, events, feast_objects, make_shop

NOW = datetime(2026, 1, 1, tzinfo=UTC)
USERS, ITEMS = 20, 15


def make_live(run: Path) -> None:
    """A shop whose events lie in segments and, the newest ones, in the live directory alone."""
    from adc_features.live.incoming import incoming
    from adc_features.live.repository import open_live

    repo = run / "live_shop"
    views = make_shop(repo)
    live = open_live(repo, declared=views, clock=lambda: NOW)
    stream = next(iter(live.ledger.streams.values()))
    made = list(events(400, users=USERS, items=ITEMS, seconds=300, now=NOW))
    for at in range(0, len(made), 50):
        live.ledger.commit([incoming(stream, made[at : at + 50])])
        if at % 100 == 0:
            live.histories.drain()


def apply_live(run: Path) -> dict[str, str]:
    """Declare the shop where it lies now."""
    from feast import FeatureStore

    repo = run / "live_shop"
    FeatureStore(str(repo)).apply(feast_objects(declared()[1], repo))
    return {}


def live_tables(run: Path) -> dict[str, Any]:
    """What was accepted; what is online of every user and item; what a join reads of them."""
    import pandas as pd
    from feast import FeatureStore

    from adc_features.live.repository import open_live

    repo = run / "live_shop"
    live = open_live(repo, declared=declared()[1], clock=lambda: NOW)
    stream = next(iter(live.ledger.streams.values()))
    found: dict[str, Any] = {"accepted": live.histories.accepted(stream).table}
    store = FeatureStore(str(repo))
    asked = {
        "user_live": pd.DataFrame({"customer_id": np.arange(USERS)}),
        "item_live": pd.DataFrame({"sku": [f"s{n}" for n in range(ITEMS)]}),
    }
    for name, keys in asked.items():
        of = store.get_feature_view(name).features
        features = [f"{name}:{feature.name}" for feature in of]
        rows = keys.to_dict("records")
        found[f"{name} online"] = store.get_online_features(features, rows).to_dict()
        frame = keys.assign(event_timestamp=NOW.replace(year=2027))
        found[f"{name} joined"] = store.get_historical_features(frame, features).to_arrow()
    return found


def make_log(run: Path) -> None:
    """A log of a few answers."""
    from adc_features.served.log import ServedLog
    from adc_features.served.record import About, Served

    features = (("stock__price", "Float32"), ("profile__age", "Int64"))
    about = About("feed", "toys", ("customer",), ("sku",), features, (), ("click",))
    log, rng = ServedLog(run / "served_log"), np.random.default_rng(0)
    for number in range(200):
        n = 5
        log.offer(
            Served(
                about=about,
                request_id=f"r{number}",
                received=NOW,
                now=NOW,
                served_as_of=None,
                version="v1",
                pair="v1@none",
                generation=None,
                variant=None,
                answered=n,
                user_known=True,
                one=pa.table({"customer": [f"c{number}"], "profile__age": [number]}),
                each=pa.table(
                    {"sku": np.arange(n), "stock__price": rng.random(n).astype(np.float32)}
                ),
                score=rng.random(n),
                tasks={"click": rng.random(n)},
                known=np.ones(n, bool),
            )
        )
    log.close()


def log_tables(run: Path) -> dict[str, Any]:
    """The requests and candidates of a log."""
    from adc_features.served.segments import sealed_segments

    segments = sealed_segments(run / "served_log")
    return {
        "requests": pa.concat_tables([s.request_rows() for s in segments]),
        "candidates": pa.concat_tables([s.candidate_rows() for s in segments]),
        "about": [s.about for s in segments],
    }
