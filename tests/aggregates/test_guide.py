"""The guide to aggregates is what the code does."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from aggregate_shop import SECOND

from adc_features.aggregates.batch import batch_rows
from adc_features.aggregates.events import Events
from adc_features.aggregates.incremental import newest_rows

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "aggregates.md"


def test_the_python_of_the_guide_runs_and_both_engines_agree(tmp_path, monkeypatch):
    """Its blocks run as they stand, over a table of events."""
    declared, computed, in_files = re.findall(
        r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S
    )
    times = [1_700_000_000 * SECOND + k * 60 * SECOND for k in range(4)]
    table = pa.table(
        {
            "event_id": [f"click {k}" for k in range(4)],
            "user_id": ["u", "v", "u", "u"],
            "item_id": ["a", "a", "b", "a"],
            "brand": ["x", "x", None, "x"],
            "label": [1, 0, 1, 1],
            "rating": [5, 2, 4, 4],
            "time": pa.array(times, pa.timestamp("us", tz="UTC")),
        }
    )
    names: dict = {"table": table}
    exec(compile(declared, str(GUIDE), "exec"), names)
    clicks, view = names["clicks"], names["user_activity"]
    parts = [table.slice(0, 2), table.slice(2)]
    names["batches"] = [Events.of(clicks, part) for part in parts]
    exec(compile(computed, str(GUIDE), "exec"), names)
    assert names["rows"]["user_event_count"].to_pylist() == [1, 1, 2, 3]
    newest = newest_rows(view, batch_rows(view, names["history"])).to_pylist()
    assert names["step"].rows["user_activity"].to_pylist() == newest[:1]
    monkeypatch.chdir(tmp_path)
    Path("events").mkdir()
    pq.write_table(table, "events/clicks.parquet")
    exec(compile(in_files, str(GUIDE), "exec"), names)
    written = pq.read_table("user_activity/rows").sort_by("event_timestamp")
    assert written.equals(names["rows"])
