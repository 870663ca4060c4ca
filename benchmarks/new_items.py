"""How soon is a new item ranked? Reads: nothing, or a finished run with text. Writes: JSON.

    python benchmarks/new_items.py --json -
    python benchmarks/new_items.py --json - --run runs/beauty

The service is a process of its own on loopback, with one thread for every library. The time of an
item runs from before its POST /items until a POST /rank has answered with the item known and coded.
`new_item.vector_ms` and `text_ms` are the slowest but one in a hundred of items whose vectors are
given, and of items with a text of 30 words. Codes are compared with those that the next snapshot
would give: `changed` must be 0.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _measure import write_report

WORDS = [
    "soft",
    "gentle",
    "daily",
    "cream",
    "lotion",
    "balm",
    "shine",
    "matte",
    "volume",
    "repair",
    "hydrating",
    "citrus",
    "rose",
    "mint",
    "oil",
    "free",
    "natural",
    "vegan",
    "salon",
    "brush",
    "set",
    "travel",
    "size",
    "pack",
    "bottle",
    "tube",
    "jar",
    "blend",
    "care",
    "classic",
    "new",
]


def made(directory: Path) -> Path:
    """A run of a small generated catalogue whose items have a text."""
    import pyarrow as pa

    from adc_features.data.dataset import write_dataset
    from adc_features.data.synthetic import synthetic
    from adc_features.pipeline.run import Run, RunSettings
    from adc_features.pipeline.stages import STAGES
    from training.stages import DATASET, RANKERS

    data = synthetic(items=500, users=600, interactions=8_000, seed=0).dataset
    chance = np.random.default_rng(0)
    names = pa.array([sentence(chance, 8) for _ in range(len(data.items))])
    items = data.items.append_column("name", names)
    write_dataset(replace(data, items=items, text_views={"name": ("name",)}), directory / "data")
    settings = RunSettings(
        source=str(directory / "data"), codebook_size=16, snapshots=2, seeds=1, steps=200
    )
    run = Run.start(directory / "run", settings)
    for stage in (*STAGES, DATASET, RANKERS["codes_weights"]):
        run.ensure(stage)
    return run.directory


def sentence(chance: np.random.Generator, words: int) -> str:
    """Words by chance."""
    return " ".join(chance.choice(WORDS, words))


@contextmanager
def serving(run: Path) -> Iterator[http.client.HTTPConnection]:
    """A service of the run that takes items, and a connection to it."""
    code = "from adc_features.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", "--run", str(run), "--port", "0", "--items"]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        facts = Path(folder) / "facts.json"
        process = subprocess.Popen(
            [*command, "--json", str(facts)], env={**os.environ, **threads}, stdout=sys.stderr
        )
        try:
            while not (facts.is_file() and facts.read_text()):
                if process.poll() is not None:
                    raise SystemExit(f"the service ended with {process.returncode}")
                time.sleep(0.1)
            address = json.loads(facts.read_text())["url"].removeprefix("http://")
            connection = http.client.HTTPConnection(address, timeout=60)
            connection.request("GET", "/readyz")  # it listens before it answers
            connection.getresponse().read()
            yield connection
        finally:
            process.terminate()
            process.wait(30)


def asked(connection: http.client.HTTPConnection, path: str, body: Any) -> dict[str, Any]:
    """The answer of a request that succeeds."""
    connection.request("POST", path, json.dumps(body))
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path} answered {answer.status}: {content.decode()}")
    return json.loads(content)


def timed(
    connection: http.client.HTTPConnection, item: dict[str, Any], user: Any, others: list[Any]
) -> tuple[float, list[int]]:
    """Milliseconds until the item is ranked among others, and its codes."""
    began = time.perf_counter()
    told = asked(connection, "/items", item)
    if told["added"] != 1:
        raise SystemExit(f"not added: {told['reasons']}")
    while True:
        rows = asked(connection, "/rank", {"user": user, "items": [item["id"], *others]})["items"]
        if next(r for r in rows if r["item_id"] == item["id"])["coded"]:
            return 1_000 * (time.perf_counter() - began), told["items"][0]["sid"]


def measured(directory: Path, count: int) -> dict[str, Any]:
    """Items by vectors and by text, one after the other."""
    from adc_features.pipeline.run import Run
    from adc_features.pipeline.stages import dataset_of, embedding_tables, id_array

    run = Run.open(directory)
    data, newest = dataset_of(run), embedding_tables(run)[-1]
    ids, chance = id_array(data.items["item_id"]), np.random.default_rng(1)
    is_text = ids.dtype.kind == "U"
    user = data.interactions["user_id"][0].as_py()
    others = [one.item() if not is_text else str(one) for one in ids[:499]]
    content = [m for m in newest.vectors if m != "behavior"]
    first = int(time.time()) if not is_text else 0
    kinds = ("vector", "text") if data.text_views else ("vector",)
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    sent: list[tuple[Any, dict[str, Any], list[int]]] = []
    with serving(directory) as connection:
        for number in range(len(kinds) * count):
            kind = kinds[number % len(kinds)]
            one = f"new-{time.time_ns()}" if is_text else first * 1_000 + number
            like = int(chance.integers(len(newest)))
            item = {"id": one, "vectors": {m: newest.vectors[m][like].tolist() for m in content}}
            if kind == "text":
                view = next(iter(data.text_views))
                del item["vectors"][view]
                item["text"] = {view: sentence(chance, 30)}
            milliseconds, sid = timed(connection, item, user, others)
            times[kind].append(milliseconds)
            sent.append((one, item, sid))
    return {
        **{
            kind: {
                "p50_ms": float(np.percentile(of, 50)),
                "p99_ms": float(np.percentile(of, 99)),
                "max_ms": float(np.max(of)),
                "first_ms": of[0],
            }
            for kind, of in times.items()
        },
        "changed": changed(run, sent),
    }


def changed(run: Any, sent: list[tuple[Any, dict[str, Any], list[int]]]) -> int:
    """Items whose content codes the next snapshot, of a catalogue with all of them, would change;
    texts are embedded as the pipeline does.
    """
    from adc_features.codes.embeddings import EmbeddingTable
    from adc_features.encoders.text import text_vectors
    from adc_features.live.items import kept_texts
    from adc_features.pipeline.stages import embedding_tables, generation_of, repository_of
    from adc_features.tokenizer.encode import encode

    before = embedding_tables(run)[-1]
    n = len(sent)
    vectors = {m: np.zeros((n, before.width(m)), np.float32) for m in before.vectors}
    present = {m: np.zeros(n, bool) for m in before.vectors}
    for modality in list(vectors):
        texts = [item.get("text", {}).get(modality) for _, item, _ in sent]
        if any(texts):
            vectors[modality], present[modality] = text_vectors(
                texts,
                model=run.settings.text_model,
                cache=None,
                kept=kept_texts(repository_of(run)),
            )
        made = vectors[modality]
        for row, (_, item, _) in enumerate(sent):
            if (given := item["vectors"].get(modality)) is not None:
                made[row], present[modality][row] = given, True
    table = EmbeddingTable(
        np.concatenate([before.item_ids, np.array([one for one, _, _ in sent])]),
        {m: np.concatenate([before.vectors[m], v]) for m, v in vectors.items()},
        {m: np.concatenate([before.present[m], p]) for m, p in present.items()},
        np.concatenate([before.interaction_count, np.zeros(n, np.int64)]),
        before.as_of,
    )
    codes = encode(table, generation_of(run)).sid[-n:]
    return int((codes != np.array([sid for *_, sid in sent])).any(axis=1).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- for standard output")
    parser.add_argument("--run", type=Path, help="a finished run with text; default: make one")
    parser.add_argument("--items", type=int, default=50, help="of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(arguments.run or made(Path(folder)), arguments.items)
    new_item = {f"{kind}_ms": of["p99_ms"] for kind, of in found.items() if kind != "changed"}
    write_report(
        arguments.json, systems={"service": found}, ratios={}, new_item=new_item, loopback=True
    )


if __name__ == "__main__":
    main()
