"""Tokenizers compared on several data sets by one command. Reads: data sets. Writes: JSON.

    python benchmarks/ranking.py --data beauty=BEAUTY --data movietweetings=MOVIETWEETINGS \\
        --work DIR --json docs/evidence/ranking.json -- --fits 5 --tokenizers posterior,rq_kmeans

What follows `--` are options of `adc compare`, the same for every data set. A data set is a folder
that `adc compare` reads, or one whose `interactions.parquet` has, beside the label, in the place of
`time` a `timestamp` in seconds: its items then get the text `genres` of their `categories`. With
`--rows NAME=N` only the first N of its rows in time are used, and the items in them, with the
validation rows from the day of the 80 % row to that of the 90 % row; `--window-days NAME=DAYS` says
how much of the end of that is scored. The answer is that of the first data set, and under
`datasets` that of each.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.data.dataset import (
    Dataset,
    dataset_from_tables,
    quantile_windows,
    write_dataset,
)
from adc_features.pipeline.source import load_source


def prepared(name: str, folder: Path, work: Path, rows: int | None) -> Path:
    """A folder that `adc compare` reads."""
    of_seconds = _of_seconds(name, folder)
    if of_seconds is None and rows is None:
        return folder
    made = of_seconds or load_source(str(folder), seed=0)
    if rows is not None:
        log = made.interactions.slice(0, rows)
        kept = pc.is_in(made.items["item_id"], value_set=pc.unique(log["item_id"]))
        windows = quantile_windows(log["time"].to_numpy())
        made = replace(made, items=made.items.filter(kept), interactions=log, windows=windows)
    write_dataset(made, work / "data")
    return work / "data"


def _of_seconds(name: str, folder: Path) -> Dataset | None:
    """A data set whose times are seconds, None for any other."""
    known = set(pq.read_schema(folder / "interactions.parquet").names)
    if not {"timestamp", "label"} <= known:
        return None
    log = pq.read_table(folder / "interactions.parquet")
    items = pq.read_table(folder / "items.parquet")
    genres = pc.binary_join(pc.fill_null(items["categories"], []), ", ")
    log = log.append_column("time", log["timestamp"].cast(pa.timestamp("s", tz="UTC")))
    return dataset_from_tables(
        name,
        items.append_column("genres", genres),
        log.select(["user_id", "item_id", "time", "label", "rating"]),
        text_views={"genres": ("genres",)},
    )


def compared(source: Path, work: Path, options: list[str]) -> dict[str, Any]:
    """What `adc compare` answers; an interrupted one is continued."""
    answer = work / "comparison.json"
    command = ["compare", "--data", str(source), "--out", str(work / "compare"), *options]
    code = "from adc_features.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", code, *command, "--json", str(answer)], check=True)
    return json.loads(answer.read_text(encoding="utf-8"))


def pairs(given: list[str]) -> dict[str, str]:
    """NAME=VALUE, by name."""
    return dict(word.split("=", 1) for word in given)


def main() -> None:
    """Prepare, compare, and put together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--rows", action="append", default=[], metavar="NAME=N")
    parser.add_argument("--window-days", action="append", default=[], metavar="NAME=DAYS")
    parser.add_argument("--work", type=Path, required=True, help="found again when interrupted")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("options", nargs="*", help="of adc compare, after --")
    asked = parser.parse_args()
    rows, days = pairs(asked.rows), pairs(asked.window_days)
    found = {}
    for name, folder in pairs(asked.data).items():
        work = asked.work / name
        work.mkdir(parents=True, exist_ok=True)
        limit = int(rows[name]) if name in rows else None
        source = prepared(name, Path(folder), work, limit)
        options = [*asked.options, *(["--window-days", days[name]] if name in days else [])]
        found[name] = {"first_rows": limit, **compared(source, work, options)}
        found[name].pop("page", None)
        words = ["adc compare --data", name.upper(), "--out DIR", *options]
        found[name]["command"] = " ".join(words)
        # after each, so that what is finished can be read
        written = {**next(iter(found.values())), "datasets": found}
        asked.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
