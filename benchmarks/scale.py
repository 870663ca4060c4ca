"""What leaving one process costs, and whether the answers stay the same. Writes: JSON.

    python benchmarks/scale.py --json scale.json
    python benchmarks/scale.py --only join encode --rows 100000 --items 100000 --json -

`join`: --rows entity rows joined with views of as many items and 3.6 times as many rows of users,
by this project's store on Spark, by Feast's Spark store (left out by --without-feast-spark) and by
this project's store in one process; `equal` says that the first and the last gave the same rows.
`encode`: --items items of three modalities of 128 dimensions, whole, streamed, on Spark, on Ray.
`materialize`: --keys keys of three rows each into LMDB and Redis, in one process and from Spark,
and into Redis by Feast's engine.
`aggregates`: --events generated events, in passes over partitions.
`snapshot`: --items items of one vector, encoded, published, packed and looked up.

Each system runs in a process of its own, and CPU seconds and peak memory are those of that process
and of all that it started, the Java machine and its Python workers included. A part that raises
reports its error and no number.
"""

import argparse
import importlib
import tempfile
from pathlib import Path
from typing import Any

from _measure import write_report

PARTS = ("join", "encode", "materialize", "aggregates", "snapshot")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", default="-", help="file to write, or - for standard output")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--without-feast-spark", action="store_true")
    parser.add_argument("--without-ray", action="store_true")
    given = parser.parse_args()
    engines = ("local", "streamed", "spark") + (() if given.without_ray else ("ray",))
    options: dict[str, dict[str, Any]] = {
        "join": {"rows": given.rows, "with_feast": not given.without_feast_spark},
        "encode": {"items": given.items, "engines": engines},
        "materialize": {"keys": given.keys},
        "aggregates": {"events": given.events},
        "snapshot": {"items": given.items},
    }
    systems: dict[str, Any] = {}
    for name in given.only:
        with tempfile.TemporaryDirectory(prefix=f"scale-{name}-") as scratch:
            try:
                measure = importlib.import_module(f"_scale_{name}").measure
                systems[name] = measure(Path(scratch), **options[name])
            except Exception as error:  # a number after an exception is void
                systems[name] = {"error": f"{type(error).__name__}: {error}"}
    write_report(given.json, systems=systems, ratios={}, **systems)


if __name__ == "__main__":
    main()
