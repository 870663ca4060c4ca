"""What does a catalogue cost from items to a lookup of codes, when memory does not hold it? Reads:
nothing. Writes: items, codes and a repository in a directory, JSON.

    python benchmarks/_scale_snapshot.py --items 2000000 --json -
    python benchmarks/_scale_snapshot.py --items 10000000 --drawn --json -

Items with a behaviour vector of 128 dimensions are generated a row group at a time, encoded by
`encode_files` in one process, published and packed as the first snapshot of a repository, and
looked up: the published file is opened, and 500 items taken at random are read one after the other.
Each step runs in a process of its own. Items in must be items published, and what is looked up must
be what the encode wrote; else, and after any exception, the figures are void. With --drawn codes
that are drawn at random, no two items alike, take the place of the encode's: what publishing costs
is then seen alone.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from _measure import apart, measured, write_report
from _scale_encode import AS_OF, prepare

from adc_features.codes.sid_pieces import SidPieces
from adc_features.codes.sids import SidTable

ROWS = 50_000
SPEC: dict[str, Any] = {"content": {}, "shared": 1, "behavior": 3, "codebook_size": 256}
LOOKED_UP = 500


def measure(directory: Path, *, items: int, drawn: bool = False) -> dict[str, Any]:
    """Step -> cpu_s, wall_s, peak_rss_bytes; bytes an item of codes, rows and the packed file."""
    directory = Path(directory)
    apart(prepare, str(directory), 1 if drawn else items, SPEC)
    found: dict[str, Any] = {"items": items, "drawn": drawn}
    for step in (published,) if drawn else (encoded, published):
        found[step.__name__] = cost = apart(step, str(directory), items, drawn)
        if cost["rows"] != items:
            raise AssertionError(f"{items} items became {cost['rows']} rows in {step.__name__}")
    found["looked_up"] = apart(looked_up, str(directory), items, drawn)
    found["bytes_an_item"] = {
        name: sum(f.stat().st_size for f in directory.glob(files)) / items
        for name, files in {
            "codes": "out/codes/*",
            "rows": "repo/data/*/rows/*",
            "packed": "repo/data/*/packed/*",
        }.items()
    }
    return found


def encoded(directory: str, items: int, drawn: bool) -> dict[str, Any]:
    """`encode_files` on the local engine."""
    from adc_features.encoding import encode_files

    def work() -> int:
        items, out = f"{directory}/items.parquet", f"{directory}/out"
        return len(encode_files(items, out, Path(directory) / "generation"))

    return measured(work)


def codes_of(directory: str, items: int, drawn: bool) -> SidPieces:
    """What is published: what the encode wrote, its hashes checked, or what is drawn."""
    from adc_features.encoding import open_encoded

    if not drawn:
        return open_encoded(f"{directory}/out").codes()
    size, length = SPEC["codebook_size"], SPEC["shared"] + SPEC["behavior"]

    def read() -> Iterator[SidTable]:
        for start in range(0, items, ROWS):
            ids, chance = np.arange(start, min(items, start + ROWS)), np.random.default_rng(start)
            weight = chance.random((len(ids), length), np.float32)
            weight[:, : SPEC["shared"]] = 1
            yield SidTable(
                item_ids=ids,
                sid=chance.integers(0, size, (len(ids), length), np.int32),
                sid_weight=weight,
                reliability=(ids % 300 / np.float32(300)).astype(np.float32),
                alignment=chance.random(len(ids), np.float32),
                is_cold=np.zeros(len(ids), bool),
                collision_count=(1 + ids % 50).astype(np.int32),
                found=np.ones(len(ids), bool),
                generation="bench",
                codebook_size=size,
                as_of=AS_OF,
            )

    return SidPieces(read, "bench", size, length, AS_OF, has_second=False)


def published(directory: str, items: int, drawn: bool) -> dict[str, Any]:
    """The codes published and packed."""
    from adc_features.codes.generation import open_generation
    from adc_features.store import create_repository, publish, published_snapshots

    repo = Path(directory) / "repo"
    create_repository(repo, project="scale")

    def work() -> int:
        made, generation = codes_of(directory, items, drawn), Path(directory) / "generation"
        times = {"servable_at": [AS_OF + timedelta(hours=6)], "computed_at": AS_OF}
        publish(repo, open_generation(generation), [made], **times)
        (entry,) = published_snapshots(repo, "bench")
        return entry.items

    return measured(work)


def looked_up(directory: str, items: int, drawn: bool) -> dict[str, Any]:
    """Some items one after the other, as they were published; microseconds each. Opening checks
    hashes: that reads the files once.
    """
    from adc_features.store import published_timeline

    asked = np.random.default_rng(0).choice(items, min(LOOKED_UP, items), replace=False)
    took: list[float] = []

    def work() -> int:
        snapshot = published_timeline(Path(directory) / "repo", "bench").snapshots[-1]
        for one in asked:
            begin = time.perf_counter()
            snapshot.lookup([int(one)])
            took.append(time.perf_counter() - begin)
        return len(asked)

    cost = measured(work)
    snapshot = published_timeline(Path(directory) / "repo", "bench").snapshots[-1]
    checked = 0
    for codes in codes_of(directory, items, drawn).read():
        mine = asked[np.isin(asked, codes.item_ids)]
        if len(mine):
            got, wanted = snapshot.lookup(mine).to_arrow(), codes.lookup(mine).to_arrow()
            checked += len(mine) if got.equals(wanted) else 0
    if checked != len(asked):
        raise AssertionError(f"of {len(asked)} items {checked} have the codes that were published")
    each = np.array(took) * 1e6
    return {**cost, "median_us": np.median(each), "p99_us": np.quantile(each, 0.99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=2_000_000)
    parser.add_argument("--drawn", action="store_true", help="random codes instead of an encode")
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-snapshot-") as directory:
        found = measure(Path(directory), items=asked.items, drawn=asked.drawn)
    write_report(asked.json, systems=found, ratios={})


if __name__ == "__main__":
    main()
