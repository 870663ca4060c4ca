"""What would have been online: the join under refresh schedules, and what freshness is worth.
Reads: a data source. Writes: one JSON document, and a page for each curve.

    python benchmarks/refresh.py --join                        # 1M rows x 3 views against a replay
    python benchmarks/refresh.py --curve DIR --pages FOLDER    # a data set with seconds
    python benchmarks/refresh.py --curve sessions              # the generated catalogue in sessions

The replay is a toy online store that is refreshed as the schedule says: rows are put into it cut by
cut, requests read it in the order of their times.
"""

import argparse
import logging
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _measure import measured, write_report

from adc_features.data.dataset import Dataset, dataset_from_tables
from adc_features.data.synthetic import Sessions, synthetic
from adc_features.loader.frame import label_table, training_frame
from adc_features.pipeline.source import load_source
from adc_features.ranking.recipes import Sources
from adc_features.store import apply, service_name, training_features
from adc_features.store.durations import parse_duration
from adc_features.store.join.engine import PreparedView, ViewSource, joined_columns
from adc_features.store.refresh import RefreshSchedule
from training.comparison.inputs import publish_monthly
from training.freshness.curve import freshness_curve
from training.freshness.subjects import FrameRows, RecipeSubject, read_columns
from training.reports.freshness_page import freshness_page
from training.reports.pages import write_page

SCHEDULES = {"user": "10m+30s/incremental", "item": "1h+20m", "brand": "1d@03:00+2h-1h"}
KEYS = {"user": 50_000, "item": 20_000, "brand": 500}
DAYS = 60
NOTHING = -1


def joined_against_a_replay(rows: int, seed: int = 0) -> dict[str, Any]:
    """Differences, and what the join costs beside a plain one."""
    rng = np.random.default_rng(seed)
    start = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    span = DAYS * 86_400 * 1_000_000
    times = np.sort(rng.integers(start, start + span, rows))
    asked = {name: rng.integers(0, count, rows) for name, count in KEYS.items()}
    systems: dict[str, Any] = {}
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, text in SCHEDULES.items():
            made = _view_rows(rng, KEYS[name], start, span)
            source = _view(Path(folder), name, made)
            frame = pa.table(
                {
                    name: asked[name],
                    "time": pa.array(times, pa.int64()).cast(pa.timestamp("us", "UTC")),
                }
            )
            schedule = RefreshSchedule.parse(text)
            answers: dict[str, Any] = {}
            for kind, refresh in (("plain", None), ("fresh", RefreshSchedule()), (text, schedule)):
                work = partial(_join_into, answers, kind, source, frame, refresh)
                systems[f"{name} {kind}"] = measured(work)
            expected = _replayed(made, schedule, asked[name], times)
            wrong = int((answers[text] != expected).sum())
            wrong += int((answers["fresh"] != answers["plain"]).sum())
            systems[f"{name} {text}"]["different"] = wrong
            systems[f"{name} {text}"]["changed"] = float((answers[text] != answers["plain"]).mean())
            different += wrong
    return {"rows": rows, "views": len(SCHEDULES), "different": different, "systems": systems}


def _join_into(
    answers: dict[str, Any],
    kind: str,
    source: ViewSource,
    frame: pa.Table,
    refresh: RefreshSchedule | None,
) -> int:
    prepared = PreparedView(source, refresh=refresh)
    found = joined_columns(frame, [prepared], time="time").features["row"]
    answers[kind] = np.asarray(found.fill_null(NOTHING))
    return len(frame)


def _view_rows(rng: np.random.Generator, keys: int, start: int, span: int) -> dict[str, np.ndarray]:
    """About twenty rows of each key, by time; one in ten was created up to a day late."""
    count = keys * 20
    event = np.sort(rng.integers(start, start + span, count) // 1_000_000 * 1_000_000)
    late = np.where(rng.random(count) < 0.1, rng.integers(0, 86_400_000_000, count), 0)
    return {"key": rng.integers(0, keys, count), "event": event, "created": event + late}


def _view(folder: Path, name: str, made: Mapping[str, np.ndarray]) -> ViewSource:
    utc = pa.timestamp("us", "UTC")
    table = pa.table(
        {
            name: made["key"],
            "event": pa.array(made["event"], pa.int64()).cast(utc),
            "created": pa.array(made["created"], pa.int64()).cast(utc),
            "row": np.arange(len(made["key"])),
        }
    )
    path = folder / f"{name}.parquet"
    pq.write_table(table, path)
    return ViewSource(name, str(path), {name: name}, {"row": "row"}, {}, "event", created="created")


def _replayed(
    made: Mapping[str, np.ndarray], schedule: RefreshSchedule, keys: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """What a store that is refreshed cut by cut answers: int64 [Q] rows, NOTHING for none."""
    period, phase, delay, lag = (
        int(d.total_seconds()) * 1_000_000
        for d in (schedule.period, schedule.phase, schedule.delay, schedule.lag)
    )
    event, created, key = made["event"], made["created"], made["key"]
    # the last of ties in key and time, by created time and position, is written last
    order = np.lexsort((np.arange(len(key)), created, event))
    event, created, key = event[order], created[order], key[order]
    online = np.full(key.max() + 1, NOTHING)
    answer = np.full(len(times), NOTHING)
    cut = (times[0] // period - 3 - delay // period - DAYS) * period + phase
    loaded = asked = 0
    while asked < len(times):
        end = np.searchsorted(event, cut - (lag if schedule.mode == "full" else 0), side="right")
        new = np.arange(loaded, end)
        if schedule.mode == "incremental":
            new = new[created[new] <= cut]
        online[key[new]] = order[new]
        loaded = int(end)
        until = np.searchsorted(times, cut + period + delay, side="left")
        answer[asked:until] = online[keys[asked:until]]
        asked, cut = int(until), cut + period
    return answer


def statistics_subject(
    dataset: Dataset, repo: Path, *, recipe: str, seeds: int, final: bool
) -> RecipeSubject:
    """A recipe without codes on the statistics of a data set, in a repository of its own."""
    publish_monthly(repo, dataset, project="freshness")
    apply(repo)
    split = dataset.windows.split(final=final)
    known = dataset.interactions if split.eval_end is None else dataset.before(split.eval_end)
    labels = label_table(known)

    def join(refresh: Mapping[str, RefreshSchedule]) -> FrameRows:
        joined = training_features(
            repo, labels, service=service_name(None), event_times=True, refresh=refresh
        )
        frame = training_frame(
            joined, labels, generation=None, codebook_size=0, resolution=dataset.resolution
        )
        train, scored = (
            frame.between(None, split.train_end),
            frame.between(split.eval_start, split.eval_end),
        )
        return FrameRows(train, scored, Sources(), read_columns(scored.table))

    return RecipeSubject(recipe, "test" if final else "validation", join, seeds)


def dataset_of(source: str) -> Dataset:
    """A data source; of tables with `timestamp` in unix seconds, as published, in place of time."""
    directory = Path(source)
    path = directory / "interactions.parquet"
    if not path.is_file() or "timestamp" not in pq.read_schema(path).names:
        return load_source(source, seed=0)
    log = pq.read_table(path)
    time = log["timestamp"].cast(pa.timestamp("s", "UTC")).cast(pa.timestamp("us", "UTC"))
    log = log.drop(["timestamp"]).append_column("time", time)
    log = log.set_column(log.column_names.index("label"), "label", log["label"].cast(pa.float32()))
    log = log.sort_by([("time", "ascending")])
    items = pq.read_table(directory / "items.parquet")
    return dataset_from_tables(directory.resolve().name, items, log)


def curve_of(source: str, options: argparse.Namespace) -> dict[str, Any]:
    """The curve of one data source."""
    dataset = (
        synthetic(seed=0, interactions=options.interactions, sessions=Sessions()).dataset
        if source == "sessions"
        else dataset_of(source)
    )
    name = "sessions" if source == "sessions" else Path(source).resolve().name
    with tempfile.TemporaryDirectory() as folder:
        subject = statistics_subject(
            dataset,
            Path(folder) / "repository",
            recipe=options.recipe,
            seeds=options.seeds,
            final=options.final,
        )
        found = freshness_curve(
            subject,
            ["item_profile", "user_activity"],
            intervals=[parse_duration(text) for text in options.intervals.split(",")],
            retrain=not options.no_retrain,
        ).to_dict()
    if options.pages:
        options.pages.mkdir(parents=True, exist_ok=True)
        write_page(options.pages / f"{name}.html", freshness_page(found))
    return {"source": name, "interactions": len(dataset.interactions), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--join", action="store_true", help="the join against a replay")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--curve", action="append", default=[], metavar="DIR|sessions")
    parser.add_argument("--interactions", type=int, default=40_000, help="of `sessions`")
    parser.add_argument("--recipe", default="xgboost_no_sid")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--intervals", default="0,1s,1m,10m,1h,6h,1d,7d")
    parser.add_argument("--no-retrain", action="store_true")
    parser.add_argument("--final", action="store_true", help="on the test rows, once")
    parser.add_argument("--pages", type=Path)
    parser.add_argument("--json", default="-")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    joined = joined_against_a_replay(options.rows) if options.join else {}
    systems = joined.pop("systems", {})
    ratios = {
        name: systems[f"{name} {text}"]["cpu_s"] / systems[f"{name} plain"]["cpu_s"]
        for name, text in (SCHEDULES.items() if systems else ())
    }
    curves = [curve_of(source, options) for source in options.curve]
    write_report(
        options.json,
        systems=systems,
        ratios=ratios,
        join=joined,
        curves={found["source"]: found for found in curves},
    )


if __name__ == "__main__":
    main()
