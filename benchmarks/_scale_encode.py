"""How fast is a catalogue encoded in memory, streamed, on Spark and on Ray? Reads: nothing.
Writes: items and codes in a directory, JSON.

    python benchmarks/_scale_encode.py --items 1000000 --engines local,streamed,spark --json -

ADC-SID at the size of `encode.py` (3 modalities of 128, 6 codes of 100). `local` is `encode` over
the whole table, the others are `encode_files` from Parquet to Parquet: collision counts, checks of
ids and manifest included. Every system runs in a process of its own. CPU seconds and memory are of
that process and all that it started (the JVM, Python workers), memory the sum over them at its
highest, sampled; codes, weights, reliability, alignment and counts must be equal bit for bit, and
an exception voids a figure.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from _measure import apart, tree, write_report
from encode import SPEC, WIDTH

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 50_000
"""Rows of a row group of the items' file."""
ENGINES = ("local", "streamed", "spark", "ray")


def measure(directory: Path, *, items: int, engines: tuple[str, ...] = ENGINES) -> dict[str, Any]:
    """system -> rows_per_cpu_s, cpu_s, wall_s, peak_rss_bytes; an engine that failed has `error`.

    equal: whether every system that ran gave the same table, and none failed.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    apart(prepare, str(directory), items)
    found: dict[str, Any] = {}
    for name in engines:
        found[name] = apart(measured_tree, str(directory), name, items)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    hashes = {one.pop("table", None) for one in found.values()}
    return found | {"equal": len(hashes) == 1 and None not in hashes}


def prepare(directory: str, items: int, given: Mapping[str, Any] = SPEC) -> None:
    """The items as Parquet, a row group at a time, and the generation. given: its spec."""
    import pyarrow.parquet as pq
    import torch

    from adc_features.codes.embeddings import EmbeddingTable
    from adc_features.codes.generation import write_generation
    from adc_features.codes.spec import BEHAVIOR, SidSpec
    from adc_features.tokenizer.fit import adc as recipe
    from adc_features.tokenizer.model import AdcModel

    spec, writer = SidSpec(**given), None
    for start in range(0, items, ROWS):
        ids = np.arange(start, min(items, start + ROWS))
        chance, warm = np.random.default_rng(start), ids % 10 > 0
        drawn = {
            m: chance.standard_normal((len(ids), WIDTH), dtype=np.float32) for m in spec.modalities
        }
        drawn[BEHAVIOR] *= warm[:, None]
        present = {m: np.ones(len(ids), bool) for m in drawn} | {BEHAVIOR: warm}
        part = EmbeddingTable(ids, drawn, present, ids % 300, AS_OF).to_arrow()
        writer = writer or pq.ParquetWriter(f"{directory}/items.parquet", part.schema)
        writer.write_table(part)
    assert writer is not None, "no items were asked for"
    writer.close()
    torch.manual_seed(0)
    model = AdcModel(spec, dict.fromkeys(spec.modalities, WIDTH), recipe(), cutoffs=1)
    write_generation(
        Path(directory) / "generation",
        generation_id="bench",
        tokenizer="adc",
        spec=spec,
        settings={
            "adc": recipe().to_dict(),
            "reliability": {
                "mode": "log_count",
                "low": 0.0,
                "high": 6.0,
                "rank_correlation": 1.0,
            },
            "cutoffs": [AS_OF.isoformat()],
        },
        tensors={name: t.numpy() for name, t in model.state_dict().items()},
        quality={},
        trained_through=AS_OF,
    )


def measured_tree(directory: str, name: str, items: int) -> dict[str, Any]:
    """One system in this process, and what it cost this process and those that it started."""
    out = f"{directory}/out-{name}"
    shutil.rmtree(out, ignore_errors=True)
    try:
        with tree() as cost:
            rows = {"local": whole}.get(name, from_files)(directory, out, name)
        if rows != items:
            raise AssertionError(f"{items} items became {rows} rows")
        table = content(out, whole=name == "local")
    except Exception as error:  # a figure after an error says nothing
        return {"error": f"{type(error).__name__}: {error}"}
    return {**cost, "rows": rows, "rows_per_cpu_s": rows / cost["cpu_s"], "table": table}


def whole(directory: str, out: str, name: str) -> int:
    """Everything in memory: read, `encode`, write."""
    from adc_features.codes.embeddings import EmbeddingTable
    from adc_features.codes.generation import open_generation
    from adc_features.parquet_files import write_table
    from adc_features.tokenizer.encode import encode

    items = EmbeddingTable.read(Path(directory) / "items.parquet")
    made = encode(items, open_generation(Path(directory) / "generation"))
    Path(out).mkdir()
    write_table(made.to_arrow(), f"{out}/codes.parquet")
    return len(made)


def from_files(directory: str, out: str, name: str) -> int:
    """`encode_files` on an engine."""
    from adc_features.encoding import encode_files
    from adc_features.engines import engine_of

    engine = engine_of({"streamed": "local"}.get(name, name))
    generation = Path(directory) / "generation"
    return len(encode_files(f"{directory}/items.parquet", out, generation, engine=engine))


def content(out: str, *, whole: bool) -> str:
    """A hash of every value of the codes, in the order of the items."""
    from adc_features.codes.sids import SidTable
    from adc_features.encoding import open_encoded
    from adc_features.parquet_files import read_parquet

    if whole:
        table = SidTable.from_arrow(read_parquet(Path(out) / "codes.parquet"))
    else:
        table = open_encoded(out).table()
    digest = sha256()
    for field in ("item_ids", "sid", "sid_weight", "reliability", "alignment", "is_cold"):
        digest.update(np.ascontiguousarray(getattr(table, field)).tobytes())
    digest.update(table.collision_count.tobytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = measure(Path(directory), items=asked.items, engines=tuple(asked.engines.split(",")))
    equal = found.pop("equal")
    write_report(asked.json, systems=found, ratios={}, items=asked.items, equal=equal)


if __name__ == "__main__":
    main()
