"""The process that Spark forks its Python workers from, with torch imported once for all of them.
Reads, writes: as Spark's own does.

A session of this machine that `SparkEngine` starts names it (`spark.python.daemon.module`).
"""

import gc
import importlib
from contextlib import suppress

HEAVY = ("pandas", "pyarrow.parquet", "torch")
"""What every worker would import for itself; pandas because pyarrow does, to hand out an array."""


def main() -> None:
    """Until Spark closes it."""
    from pyspark.daemon import manager

    for name in HEAVY:
        with suppress(ImportError):  # who needs it says so, in a worker
            importlib.import_module(name)
    # a worker collects garbage after each task: it need not look through all of torch for it
    gc.collect()
    gc.freeze()
    manager()


if __name__ == "__main__":
    main()
