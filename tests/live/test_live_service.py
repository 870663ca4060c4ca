"""From a history of events to a ranker whose features follow them, by commands alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from live_world import make_shop, online
from typer.testing import CliRunner

from adc_features.cli.main import application

ROOT = Path(__file__).parents[2]
RANKER = """
from adc_features.inputs import Ranker, Task, infer

feed = Ranker(service="feed", tasks=[Task("click")], user=["customer_id"], item=["sku"],
              inputs=infer())
"""
HISTORY = pa.schema(
    {
        "event_id": pa.string(),
        "event_time": pa.timestamp("us", "UTC"),
        "customer_id": pa.int64(),
        "sku": pa.string(),
        "brand": pa.string(),
        "label": pa.int64(),
        "rating": pa.float64(),
    }
)


def adc(*words: str) -> str:
    """Run a command in this process; its exit code must be 0. What it printed."""
    result = CliRunner().invoke(application(), [*words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def history() -> pa.Table:
    """Six days of events until a minute ago; half of the customers like most of what they see."""
    rng, now = random.Random(0), datetime.now(UTC)
    ago = sorted((rng.uniform(60, 6 * 86_400) for _ in range(1_500)), reverse=True)
    return pa.Table.from_pylist(
        [
            {
                "event_id": f"h{i}",
                "event_time": now - timedelta(seconds=seconds),
                "customer_id": (customer := rng.randrange(60)),
                "sku": f"s{rng.randrange(20)}",
                "label": int(rng.random() < (0.9 if customer % 2 else 0.1)),
            }
            for i, seconds in enumerate(ago)
        ],
        HISTORY,
    )


@contextmanager
def served(folder: Path, *words: str):
    """The address of `adc serve`, until it has ended on SIGTERM."""
    told = folder / "served.json"
    command = [sys.executable, "-c", "from adc_features.cli.main import main; main()", "serve"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, *words, "--port", "0", "--json", str(told)], env=environment
    ) as process:
        try:
            until = time.monotonic() + 120
            while not told.is_file():
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
            yield json.loads(told.read_text())["url"]
        finally:
            process.terminate()
    assert process.returncode in (0, -signal.SIGTERM)


def answered(url: str, body: object = None):
    """The JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=60) as response:
        return json.load(response)


@pytest.mark.slow  # trains a ranker and starts a service
def test_a_ranker_s_features_follow_events(tmp_path):
    """A customer who comes to like things scores higher a moment later; what the service took is
    in the history when it has ended, and everything online is what the events say.
    """
    repo = make_shop(tmp_path / "shop", rankers=RANKER)
    events = history()
    pq.write_table(events, tmp_path / "history.parquet")
    names = {"event_time": "event_timestamp", "label": "click"}
    columns = ["customer_id", "sku", "event_time", "label"]
    labels = events.select(columns).rename_columns([names.get(n, n) for n in columns])
    pq.write_table(labels, tmp_path / "labels.parquet")
    of_repo = ("--repo", str(repo))
    shown = json.loads(adc("inputs", *of_repo, "--ranker", "feed", "--json", "-"))["inputs"]
    kinds = {one["input"]: one["kind"] for one in shown}
    assert kinds["product_profile__product_last_time"] == "time"  # an age, no growing number
    adc("ingest", *of_repo, "--history", str(tmp_path / "history.parquet"))
    adc("train", *of_repo, "--labels", str(tmp_path / "labels.parquet"), "--quick")
    adc("promote", *of_repo)
    with served(tmp_path, *of_repo, "--events") as url:
        asked = {"user": 2, "items": ["s1"]}
        before = answered(f"{url}/rank", asked)["items"][0]["score"]
        liked = [
            {
                "event_id": f"n{i}",
                "event_time": datetime.now(UTC).isoformat(),
                "customer_id": 2,
                "sku": f"s{i % 20}",
                "label": 1,
            }
            for i in range(60)
        ]
        assert answered(f"{url}/events", liked)["accepted"] == 60
        assert answered(f"{url}/rank", asked)["items"][0]["score"] > before + 0.05
        assert answered(f"{url}/readyz")["events"]["history_error"] is None
        with urllib.request.urlopen(f"{url}/metrics", timeout=60) as page:
            assert b'adc_live_events_total{outcome="accepted",stream="clicks"} 60.0' in page.read()
    adc("verify", "online", *of_repo)
    seen = online(repo, ["customer_activity:customer_events"], customer_id=[2])["customer_events"]
    place = repo / "data/live/history/customer_activity"
    rows = pq.read_table(place).filter(pc.field("customer_id") == 2)
    assert rows.sort_by("event_timestamp")["customer_events"][-1].as_py() == seen[0]
