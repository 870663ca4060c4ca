"""What does a ranker on the user's own feature service cost? Reads: nothing. Writes: JSON.

    python benchmarks/own_features.py --json -
    python benchmarks/own_features.py --only vocabulary parity --json -
    python benchmarks/own_features.py --only stores --stores sqlite redis postgres --json -

A generated feed of 40 features (27 numbers, 10 categories, 2 sequences, semantic IDs) is trained
and promoted. Measured are:

`rank`: POST /rank with 500 candidates, one worker, our LMDB store, an open loop at a fixed rate;
latency counts from the moment a request was due, and `failed` are those without an answer in time.
`stores`: the same requests in this process on each online store, beside that store's own
`get_online_features` for the same keys, in turn; `above_ms` is the difference of the medians.
`cpu_ms` are those of this process, without a server's. Redis and PostgreSQL are started when asked.
`inputs`: values a CPU second from a joined frame to arrays; histories that are coded by the late
join apart.
`ppnet`: training rows a CPU second, by benchmarks/ppnet.py.
`parity`: served scores beside those of the same rows joined as of the same moment.
`vocabulary`: 10M ids, fitted and saved in one process, loaded and asked in another, and as many ids
of text, fitted in a third; `fit_added_rss_bytes` are above what the column had needed before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from _measure import apart, peak_rss_bytes, write_report
from _wide_feed import (
    DEVICES,
    FEATURES,
    NOW,
    ONLINE,
    SERVERS,
    WideFeed,
    make_wide_feed,
    put_online,
)

PARTS = ("rank", "stores", "inputs", "ppnet", "parity", "vocabulary")
DISTINCT = 24
"""Distinct requests, asked in turn."""


def trained(feed: WideFeed) -> Path:
    """Train and promote the declared ranker; its promotion file."""
    from adc_features.store.services.schema import declared_rankers
    from training.ranker.fitting import TrainSettings
    from training.ranker.workflow import promote_ranker, train_rankers

    settings = TrainSettings(seeds=1, quick=True)
    rankers = declared_rankers(feed.repo)
    train_rankers(feed.repo, rankers, feed.labels, at=datetime.now(UTC), settings=settings)
    return Path(promote_ranker(feed.repo, "feed", at=datetime.now(UTC))["promotion"])


def requests(feed: WideFeed, candidates: int, *, count: int = DISTINCT) -> list[dict[str, Any]]:
    """Bodies of /rank: known users, distinct known items."""
    rng = np.random.default_rng(1)
    return [
        {
            "user": int(rng.choice(feed.users)),
            "items": rng.choice(feed.items, candidates, replace=False).tolist(),
            "request": {"device": str(rng.choice(np.array(DEVICES)))},
        }
        for _ in range(count)
    ]


def over_http(
    feed: WideFeed, promotion: Path, scratch: Path, *, candidates: int, rate: float, seconds: float
) -> dict[str, Any]:
    """Latencies of /rank at a fixed rate, and where the time goes."""
    from serve import _load_apart, adc_server, cpu_seconds, split, summary

    bodies = [json.dumps(asked).encode() for asked in requests(feed, candidates)]
    with adc_server(promotion, NOW, scratch) as (port, server):
        how = {"seconds": min(2.0, seconds), "connections": 1, "rate": None}
        apart(_load_apart, port, "/rank", bodies, how)  # warms up
        before = cpu_seconds(server)
        how = {"seconds": seconds, "connections": 16, "rate": rate}
        heard = apart(_load_apart, port, "/rank", bodies, how)
        facts = summary(heard, cpu_s=cpu_seconds(server) - before)
    if facts["failed"] == len(heard):
        raise RuntimeError(f"all {len(heard)} requests failed: {heard[-1].body!r}")
    return {**facts, "parts_ms": split(heard), "candidates": candidates, "rate": rate}


def on_store(feed: WideFeed, promotion: Path, *, candidates: int, repeats: int) -> dict[str, float]:
    """A request in this process beside the store's own read of the same features, in turn."""
    from feast import FeatureStore

    from adc_features.serving.declared import open_declared
    from adc_features.serving.promotion import read_promotion
    from adc_features.serving.service import Service, ServiceSettings

    bundle = open_declared(read_promotion(promotion))
    service = Service(bundle, ServiceSettings(), clock=lambda: NOW)
    store = FeatureStore(repo_path=str(feed.repo))
    views = store.get_feature_service("feed").feature_view_projections
    refs = {
        key: [f"{v.name_to_use()}:{f.name}" for v in views if v.name_to_use() in of
              for f in v.features]
        for key, of in {
            "user": ["profile"],
            "item": [v.name_to_use() for v in views if v.name_to_use() not in
                     ("profile", "affinity")],
            "pair": ["affinity"],
        }.items()
    }  # fmt: skip

    def own(asked: dict[str, Any]) -> None:
        """The user once, the items and the pairs: no more is read than the ranker needs."""
        users, items = [asked["user"]], asked["items"]
        read = store.get_online_features
        read(refs["user"], {"user_id": users}, full_feature_names=True)
        read(refs["item"], {"item_id": items}, full_feature_names=True)
        keys = {"user_id": users * len(items), "item_id": items}
        read(refs["pair"], keys, full_feature_names=True)

    asked = requests(feed, candidates)
    bodies = [json.dumps(a).encode() for a in asked]
    service.rank(bundle, bodies[0])
    own(asked[0])
    spent = np.array(
        [
            (_seconds(lambda b=b: service.rank(bundle, b)), _seconds(lambda a=a: own(a)))
            for _ in range(repeats)
            for a, b in zip(asked, bodies, strict=True)
        ]
    )
    rank, theirs = 1000 * np.median(spent, axis=0)
    return {
        "p50_ms": float(rank[0]),
        "own_get_online_features_p50_ms": float(theirs[0]),
        "above_ms": float(rank[0] - theirs[0]),
        "cpu_ms": float(rank[1]),
        "own_get_online_features_cpu_ms": float(theirs[1]),
    }


def _seconds(work: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def parity(feed: WideFeed, promotion: Path, *, rows: int) -> dict[str, Any]:
    """Rows of the log, served and joined as of NOW: the greatest difference of a score or a
    probability."""
    from adc_features.serving.declared import open_declared
    from adc_features.serving.promotion import read_promotion
    from training.ranker.served_parity import served_parity

    log = pq.read_table(feed.labels, columns=["user_id", "item_id", "device"])
    return served_parity(open_declared(read_promotion(promotion)), log, NOW, most=rows)


def inputs(feed: WideFeed, promotion: Path, *, rows: int) -> dict[str, Any]:
    """Values a CPU second from a joined frame to arrays; a value is a scalar or an element of a
    list."""
    from dataclasses import replace

    from adc_features.inputs.declaration import ItemHistory
    from adc_features.inputs.rows import Parts
    from adc_features.ranking.multitask.trained import load_ranker
    from adc_features.serving.promotion import read_promotion
    from adc_features.store import published_timeline
    from adc_features.store.services.schema import declared_rankers
    from training.ranker.joined import join_labels

    encoder = load_ranker(read_promotion(promotion).ranker).encoder
    joined = join_labels(feed.repo, declared_rankers(feed.repo)["feed"], feed.labels)
    place = np.random.default_rng(2).integers(0, len(joined), rows)
    table = joined.table.take(pa.array(place)).combine_chunks()
    timeline = published_timeline(feed.repo, "g1")
    late = {n for n, e in encoder.encoders.items() if isinstance(e.spec.kind, ItemHistory)}
    found = {}
    for name, chosen in (("plain", set(encoder.encoders) - late), ("coded_histories", late)):
        part = replace(encoder, encoders={n: encoder.encoders[n] for n in encoder.encoders
                                          if n in chosen})  # fmt: skip
        parts = Parts.joined(table, joined.log.times[place], timeline=timeline)
        columns = {c.name for n in chosen for c in encoder.encoders[n].spec.columns.values()}
        values = sum(_values(table[c]) for c in columns)
        cpu = min(_seconds(lambda p=part, q=parts: p.encode(q))[1] for _ in range(3))
        found[name] = {"values": values, "cpu_s": cpu, "values_per_cpu_s": values / cpu}
    return {
        "rows": rows,
        "values_per_cpu_s": found["plain"]["values_per_cpu_s"],
        "coded_histories_values_per_cpu_s": found["coded_histories"]["values_per_cpu_s"],
        "measured": found,
    }


def _values(column: pa.ChunkedArray) -> int:
    if not pa.types.is_list(column.type):
        return len(column)
    return sum(len(chunk.flatten()) for chunk in column.chunks)


def fitted_vocabulary(path: Path, ids: int, text: bool) -> dict[str, float]:
    """Fit and save a vocabulary of so many ids. Runs in a process of its own."""
    from adc_features.inputs.declaration import VocabularyOptions
    from adc_features.inputs.vocabulary import Vocabulary

    numbers = np.random.default_rng(3).permutation(ids).astype(np.int64) * 7 + 3
    values = pa.chunked_array(
        [_as_text(p) if text else pa.array(p) for p in np.array_split(numbers, 10)]
    )
    del numbers
    base = peak_rss_bytes()
    began = time.process_time()
    Vocabulary.fit(values, VocabularyOptions(min_count=1, max_size=ids)).save(path)
    peak = peak_rss_bytes()
    return {
        "fit_cpu_s": time.process_time() - began,
        "fit_peak_rss_bytes": peak,
        "fit_added_rss_bytes": peak - base,
    }


def _as_text(numbers: np.ndarray) -> pa.Array:
    """Ids such as "sku-000000000017", 16 bytes each."""
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 12, "0")
    return pc.binary_join_element_wise("sku-", digits, "")


def loaded_vocabulary(path: Path, ids: int) -> dict[str, float]:
    """Load it and look up 100,000 values. Runs in a process of its own."""
    from adc_features.inputs.vocabulary import Vocabulary

    asked = pa.array(np.random.default_rng(4).integers(0, 7 * ids, 100_000))
    began = time.perf_counter()
    vocabulary = Vocabulary.load(path)
    load_s = time.perf_counter() - began
    rows = vocabulary.rows(asked)
    assert rows.max() < vocabulary.size
    return {"load_s": load_s, "peak": peak_rss_bytes()}


def vocabulary(scratch: Path, *, ids: int) -> dict[str, float]:
    path = scratch / "vocabulary.arrow"
    fit, load = apart(fitted_vocabulary, path, ids, False), apart(loaded_vocabulary, path, ids)
    text = apart(fitted_vocabulary, scratch / "text.arrow", ids, True)
    return {
        "ids": ids,
        "load_s": load["load_s"],
        "peak_rss_bytes": load["peak"],
        **fit,
        "file_bytes": path.stat().st_size,
        "text": {**text, "file_bytes": (scratch / "text.arrow").stat().st_size},
    }


def ppnet(options: list[str]) -> dict[str, Any]:
    """What benchmarks/ppnet.py says of 40 features."""
    script = Path(__file__).with_name("ppnet.py")
    with tempfile.TemporaryDirectory() as place:
        told = Path(place) / "ppnet.json"
        subprocess.run([sys.executable, str(script), "--json", str(told), *options], check=True)
        return json.loads(told.read_text(encoding="utf-8"))["ppnet"]


def measure(asked: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The parts that are asked for, in order; the feed is made where one needs it."""
    found: dict[str, Any] = {}
    wanted = set(asked.only)
    if wanted & {"rank", "stores", "inputs", "parity"}:
        feed = make_wide_feed(scratch, users=asked.users, items=asked.items, rows=asked.rows)
        for store in ("lmdb", *(s for s in asked.stores if s != "lmdb")):
            if store != "lmdb" and not wanted & {"stores", "parity"}:
                continue
            put_online(feed, store)
            if store == "lmdb":
                promotion = trained(feed)
            if store == "lmdb" and "rank" in wanted:
                found["rank"] = over_http(
                    feed,
                    promotion,
                    scratch,
                    candidates=asked.candidates,
                    rate=asked.rate,
                    seconds=asked.seconds,
                )
            if store == "lmdb" and "inputs" in wanted:
                found["inputs"] = inputs(feed, promotion, rows=asked.encoded_rows)
            if "stores" in wanted:
                found.setdefault("stores", {})[store] = on_store(
                    feed, promotion, candidates=asked.candidates, repeats=asked.repeats
                )
            if "parity" in wanted:
                found.setdefault("parity", {})[store] = parity(
                    feed, promotion, rows=asked.parity_rows
                )
    if "ppnet" in wanted:
        fuxictr = [asked.fuxictr_python, asked.fuxictr_model]
        options = ["--repeat", str(asked.ppnet_repeat)]
        if all(fuxictr):
            options += ["--fuxictr-python", fuxictr[0], "--fuxictr-model", fuxictr[1]]
        found["ppnet"] = ppnet(options)
    if "vocabulary" in wanted:
        found["vocabulary"] = vocabulary(scratch, ids=asked.ids)
    return found


@contextmanager
def servers(stores: Sequence[str]) -> Iterator[None]:
    """Those of these stores that are processes run, and their variables are set."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "servers"))
    import start

    with ExitStack() as running:
        for name in set(stores) & set(SERVERS):
            os.environ.update(running.enter_context(getattr(start, name)()))
        yield


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """What targets are stated of, beside the plain numbers."""
    said = {}
    if "fuxictr" in found.get("ppnet", {}):
        rates = {name: system["rows_per_cpu_s"] for name, system in found["ppnet"].items()}
        said["ppnet_rows_per_cpu_s_over_fuxictr"] = rates["adc"] / rates["fuxictr"]
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--stores", nargs="+", choices=ONLINE, default=["lmdb", "sqlite"], help="beside lmdb"
    )
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=40_000, help="rows of the label log")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20, help="length of the load")
    parser.add_argument("--repeats", type=int, default=5, help="of the distinct requests a store")
    parser.add_argument("--encoded-rows", type=int, default=200_000)
    parser.add_argument("--parity-rows", type=int, default=1_000)
    parser.add_argument("--ids", type=int, default=10_000_000, help="of the vocabulary")
    parser.add_argument("--ppnet-repeat", type=int, default=3)
    parser.add_argument("--fuxictr-python", help="as of benchmarks/ppnet.py")
    parser.add_argument("--fuxictr-model", help="as of benchmarks/ppnet.py")
    parser.add_argument("--work", type=Path, help="where scratch files go")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.work) as scratch, servers(asked.stores):
        found = measure(asked, Path(scratch))
    sizes = {n: getattr(asked, n) for n in ("users", "items", "rows", "candidates")}
    write_report(
        asked.json, systems={}, ratios=ratios(found), features=FEATURES, sizes=sizes, **found
    )


if __name__ == "__main__":
    main()
