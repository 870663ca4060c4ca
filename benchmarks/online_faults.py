"""Does the LMDB online store lose or mix anything? Kills, a full disk, readers beside a writer, two
writers; every state is checked.

Every load writes one version to all rows, as one transaction: whoever reads must see the rows of
one version, complete, and never an older one than before. Losses must be 0.

    python benchmarks/online_faults.py --kills 300 --seconds 60 --json online_faults.json
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _measure import write_report
from materialize import OURS

from adc_features.errors import ArtifactError

ROWS, ASKED, READERS = 5_000, 200, 8
START = datetime(2024, 1, 1, tzinfo=UTC)
# a child that had to import feast again could not be killed 300 times in reasonable time
_FORK = multiprocessing.get_context("fork")


def rows(version: int, n: int = ROWS) -> pa.Table:
    """All rows of one version; its number is the value, in a list too, and the event time."""
    lengths = np.arange(n) % 5
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    moment = np.datetime64(START.replace(tzinfo=None), "us") + np.timedelta64(version, "s")
    return pa.table(
        {
            "item_id": np.arange(n),
            "version": np.full(n, version),
            "versions": pa.ListArray.from_arrays(
                offsets, pa.array(np.full(lengths.sum(), version))
            ),
            "event_timestamp": pa.array(np.full(n, moment), pa.timestamp("us", tz="UTC")),
        }
    )


class World:
    """A repository, and what may be done to it from a forked process."""

    def __init__(self, directory: Path) -> None:
        from adc_features.store import _compat as feast

        self.directory, self.path = directory, directory / "rows.parquet"
        pq.write_table(rows(0), self.path)
        settings = {
            "project": "faults",
            "provider": "local",
            "entity_key_serialization_version": 3,
            "materialization": {"pull_latest_features": True},
            **OURS,
        }
        registry = {
            "registry_type": "sql",
            "path": f"sqlite:///{directory}/registry.db",
            "serve_features_while_materializing": True,
        }
        self.store = feast.FeatureStore(
            repo_path=str(directory),
            config=feast.RepoConfig(**settings, registry=registry, repo_path=directory),
        )
        item = feast.Entity(name="item", join_keys=["item_id"], value_type=feast.ValueType.INT64)
        source = feast.FileSource(
            name="rows",
            path=str(self.path),
            file_format=feast.ParquetFormat(),
            timestamp_field="event_timestamp",
        )
        fields = {
            "item_id": feast.Int64,
            "version": feast.Int64,
            "versions": feast.Array(feast.Int64),
        }
        schema = [feast.Field(name=name, dtype=kind) for name, kind in fields.items()]
        self.store.apply(
            [
                item,
                feast.FeatureView(
                    name="items", entities=[item], schema=schema, source=source, ttl=timedelta(0)
                ),
            ]
        )
        self.online, self.view = (
            self.store._get_provider().online_store,
            self.store.get_feature_view("items"),
        )

    def load(self, version: int, n: int = ROWS) -> None:
        self.online.write_arrow(
            self.store.config, self.view, rows(version, n), event="event_timestamp"
        )

    def materialize(self, version: int) -> None:
        aside = self.path.with_suffix(f".{os.getpid()}")
        pq.write_table(rows(version), aside)
        aside.replace(self.path)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self.store.materialize(START - timedelta(days=1), START + timedelta(days=30))

    def served(self, ids: np.ndarray) -> int:
        """The one version that these items are served in, -1 when none is there. Raises
        AssertionError for a mixture.
        """
        got = self.store.get_online_features(
            ["items:version", "items:versions"], {"item_id": ids}
        ).to_dict()
        found = set(got["version"])
        assert len(found) == 1, f"a mixture of {sorted(found, key=str)[:5]}"
        (version,) = found
        assert version is None or all(
            values == [version] * (i % 5)
            for i, values in zip(got["item_id"], got["versions"], strict=True)
        )
        return -1 if version is None else version


def kills(
    world: World, act: Callable[[int], None], times: int, rng: random.Random
) -> dict[str, int]:
    """SIGKILL a process that writes version after version, at random moments; what is there then is
    complete and no older.
    """
    seen, checked = world.served(np.arange(ROWS)), 0
    for _ in range(times):
        first = seen + 1

        def write_on(first: int = first) -> None:
            for version in range(first, first + 10_000):
                act(version)

        writer = _FORK.Process(target=write_on)
        writer.start()
        time.sleep(rng.uniform(0.0, 0.4))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        now = world.served(np.arange(ROWS))
        assert now >= seen, f"version {now} after {seen} was seen"
        seen, checked = now, checked + 1
    return {"faults": times, "states_checked": checked, "losses": 0, "versions_written": seen}


def readers_beside_a_writer(world: World, seconds: float) -> dict[str, int]:
    until = time.monotonic() + seconds
    reads = _FORK.Array("q", READERS)

    def read_on(number: int) -> None:
        rng, seen = np.random.default_rng(number), -1
        while time.monotonic() < until:
            now = world.served(rng.integers(0, ROWS, ASKED))
            assert now >= seen
            seen = now
            reads[number] += 1

    readers = [_FORK.Process(target=read_on, args=(number,)) for number in range(READERS)]
    for reader in readers:
        reader.start()
    version = world.served(np.arange(ROWS))
    first = version
    while time.monotonic() < until:
        version += 1
        (world.materialize if version % 2 else world.load)(version)
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0] * READERS, (
        "a reader saw a mixture, an older version or an error"
    )
    return {"faults": version - first, "states_checked": sum(reads), "losses": 0}


def two_writers(world: World, rounds: int) -> dict[str, int]:
    """Two processes write different versions at once, one of them in falling order: the newest
    event time is served.
    """
    first = world.served(np.arange(ROWS)) + 1
    orders = [range(first, first + rounds), range(first + rounds - 1, first - 1, -1)]
    writers = [
        _FORK.Process(target=lambda order=order: [world.load(version) for version in order])
        for order in orders
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert world.served(np.arange(ROWS)) == first + rounds - 1
    return {"faults": 2 * rounds, "states_checked": 1, "losses": 0}


def full_disk(world: World, times: int, rng: random.Random) -> dict[str, int]:
    """Files may not grow beyond a limit (RLIMIT_FSIZE): a load fails with our error, what was
    served stays, and loading works again.
    """
    data = world.directory / "online" / "data.mdb"
    for _ in range(times):
        seen, limit = world.served(np.arange(ROWS)), data.stat().st_size + rng.randrange(0, 4 << 20)

        def overflow(limit: int = limit, seen: int = seen) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                world.load(seen + 1, 100 * ROWS)
            except ArtifactError:
                os._exit(3)

        writer = _FORK.Process(target=overflow)
        writer.start()
        writer.join()
        assert writer.exitcode == 3, f"exit code {writer.exitcode}"
        assert world.served(np.arange(ROWS)) == seen
        world.load(seen + 1)
        assert world.served(np.arange(ROWS)) == seen + 1
    return {"faults": times, "states_checked": 2 * times, "losses": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default="-", metavar="FILE|-")
    asked = parser.parse_args()
    rng, report = random.Random(asked.seed), {}
    with tempfile.TemporaryDirectory(prefix="adc-online-faults-") as scratch:
        world = World(Path(scratch))
        world.load(0)
        runs: dict[str, Callable[[], dict[str, int]]] = {
            "kill_bulk_load": lambda: kills(world, world.load, asked.kills // 2, rng),
            "kill_materialize": lambda: kills(
                world, world.materialize, asked.kills - asked.kills // 2, rng
            ),
            "full_disk": lambda: full_disk(world, 10, rng),
            "two_writers": lambda: two_writers(world, 20),
            "readers_beside_a_writer": lambda: readers_beside_a_writer(world, asked.seconds),
        }
        for name, run in runs.items():
            report[name] = run()
    total: dict[str, Any] = {
        key: sum(found[key] for found in report.values())
        for key in ("faults", "states_checked", "losses")
    }
    write_report(asked.json, systems=report, ratios={}, **total)


if __name__ == "__main__":
    main()
