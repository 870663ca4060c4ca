"""Does anything tear? Kills, full disks, altered files, writers and readers at once. Reads:
nothing. Writes: JSON.

    python benchmarks/faults.py --kills 300 --json faults.json

Each scenario returns how often a fault was tried, how many states were checked afterwards, and what
was lost: a state that is neither the one before nor the one after, incomplete or a mixture of both,
or an answer that failed. The scenarios of another store are added to SCENARIOS.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _measure import machine

from adc_features import store
from adc_features.codes.generation import Generation
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import SidSpec
from adc_features.errors import AdcError, ArtifactError
from adc_features.store.packed.snapshot import PackedSnapshot
from adc_features.store.repository import publication_path

SPEC = SidSpec(content={"text": 1}, shared=1, behavior=1, codebook_size=1000)
START = datetime(2024, 1, 1, tzinfo=UTC)
GENERATION = Generation("g1", "adc", SPEC, {}, {}, {}, START, "00" * 32)
ITEMS = np.arange(20_000)
SPAWN = multiprocessing.get_context("spawn")


class Faults(NamedTuple):
    """tried: faults caused; checked: states or answers looked at; lost: those that were wrong, must
    be 0.
    """

    tried: int
    checked: int
    lost: int


def cut(number: int) -> SidTable:
    """The snapshot of day `number`: every item has this number for a code, so a mixture shows."""
    n = len(ITEMS)
    sid, ones = np.full((n, 3), number, np.int32), np.ones(n, np.float32)
    return SidTable(
        ITEMS,
        sid,
        np.full((n, 3), number, np.float32),
        ones,
        ones,
        np.zeros(n, bool),
        np.ones(n, np.int32),
        np.ones(n, bool),
        "g1",
        1000,
        day(number),
    )


def day(number: int) -> datetime:
    return START + timedelta(days=number)


def publish(repo: Path, number: int) -> None:
    """Add day `number` to what is published."""
    table = cut(number)
    store.publish(repo, GENERATION, [table], servable_at=[table.as_of], computed_at=START)


def new_repository(folder: Path) -> Path:
    store.create_repository(folder / "repo", project="faults")
    return folder / "repo"


def held(repo: Path) -> list[int]:
    """The days that are published, each file verified and read whole. Raises AdcError or
    AssertionError when anything is torn.
    """
    timeline = store.published_timeline(repo, "g1")
    days = []
    # checks every file's sha256
    for entry, packed in zip(
        store.published_snapshots(repo, "g1"), timeline.snapshots, strict=True
    ):
        packed.verify()
        number = (packed.as_of - START).days
        got = packed.lookup(ITEMS)
        if entry.as_of != packed.as_of or not (got.sid == number).all() or not got.found.all():
            raise ArtifactError(f"day {number} is a mixture")
        days.append(number)
    return days


# ---- scenarios


def killed_publishes(folder: Path, kills: int, chance: random.Random) -> Faults:
    """SIGKILL at a random moment of a publish: afterwards the days are those before or those and
    the new one, and the next publish works.
    """
    repo, known, lost, tried = new_repository(folder), [1], 0, 0
    publish(repo, 1)
    began = time.monotonic()
    publish(repo, 2)
    seconds, known, number = time.monotonic() - began, [1, 2], 2
    while tried < kills:
        number += 1
        child = os.fork()
        if child == 0:
            publish(repo, number)
            os._exit(0)
        time.sleep(chance.uniform(0, 1.2 * seconds))
        os.kill(child, signal.SIGKILL)
        tried += os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        try:
            now = held(repo)
        except AdcError as error:
            print(f"kill {tried}: {error}", file=sys.stderr)
            now, lost = known, lost + 1
        if now not in (known, [*known, number]):
            print(f"kill {tried}: {known} became {now}", file=sys.stderr)
            lost += 1
        known = now
        if len(known) > 4:  # a fresh start keeps a publish short
            shutil.rmtree(publication_path(repo, "g1"))
            number, known = 1, [1]
            publish(repo, 1)
    publish(repo, number + 1)
    return Faults(tried, tried + 1, lost + (held(repo) != [*known, number + 1]))


def full_disk(folder: Path, kills: int, chance: random.Random) -> Faults:
    """A file that may not grow past a random size (as on a full disk) fails the publish; what was
    published stays and the next one works.
    """
    repo, lost, tries = new_repository(folder), 0, max(5, kills // 10)
    publish(repo, 1)
    for _ in range(tries):
        limit, child = chance.randrange(0, 700_000), os.fork()
        if child == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                publish(repo, 2)
            except OSError:
                os._exit(1)
            os._exit(0)
        failed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        days = _held_or_none(repo)
        lost += days != ([1] if failed else [1, 2])
        if not failed:
            shutil.rmtree(publication_path(repo, "g1"))
            publish(repo, 1)
    publish(repo, 2)
    return Faults(tries, tries + 1, lost + (held(repo) != [1, 2]))


def altered_files(folder: Path, kills: int, chance: random.Random) -> Faults:
    """A packed file that is cut, or has one bit flipped, is refused by an error that names it; a
    read of it never does worse.
    """
    repo, lost, tries = new_repository(folder), 0, max(50, kills)
    publish(repo, 1)
    path = next((publication_path(repo, "g1") / "packed").iterdir())
    whole = path.read_bytes()
    for number in range(tries):
        broken = bytearray(whole)
        if number % 2:
            broken = broken[: chance.randrange(len(whole))]
        else:
            bit = chance.randrange(8 * len(whole))
            broken[bit // 8] ^= 1 << (bit % 8)
        path.unlink()
        path.write_bytes(broken)
        try:
            opened = PackedSnapshot(path)
            with contextlib.suppress(ArtifactError):
                opened.lookup(ITEMS)
            opened.verify()
            lost += 1
        except ArtifactError as error:
            lost += str(path) not in str(error)
    return Faults(tries, tries, lost)


def readers_beside_publishes(folder: Path, kills: int, chance: random.Random) -> Faults:
    """Three reader processes look up while one process publishes, replaces and finally deletes: no
    failed, mixed or older answer.
    """
    repo = new_repository(folder)
    publish(repo, 1)
    stop = SPAWN.Event()
    answers = SPAWN.Queue()
    readers = [SPAWN.Process(target=_read_until, args=(repo, stop, answers)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in readers:
        answers.get()  # each has begun
    publishes = max(6, kills // 20)
    for number in range(2, 2 + publishes):
        publish(repo, 2 + number % 4 if number > 5 else number)
    shutil.rmtree(publication_path(repo, "g1"))
    time.sleep(0.5)
    stop.set()
    results = [answers.get() for _ in readers]
    for reader in readers:
        reader.join()
    return Faults(publishes + 1, sum(n for n, _ in results), sum(bad for _, bad in results))


def two_writers(folder: Path, kills: int, chance: random.Random) -> Faults:
    """Two processes publish different days at once:
    one waits for the other and neither's day is lost.
    """
    lost, tries = 0, max(2, kills // 30)
    for number in range(tries):
        repo = new_repository(folder / str(number))
        publish(repo, 1)
        writers = [SPAWN.Process(target=publish, args=(repo, n)) for n in (2, 3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        lost += _held_or_none(repo) != [1, 2, 3]
    return Faults(tries, tries, lost)


def read_only_directory(folder: Path, kills: int, chance: random.Random) -> Faults:
    """A publisher without the right to write is refused by name and changes nothing; a reader
    without it reads.
    """
    repo = new_repository(folder)
    publish(repo, 1)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    child = os.fork()
    if child == 0:
        if os.getuid() == 0:
            os.setgroups([])
            os.setuid(65_534)  # root may write anywhere
        read = store.OnlineSids(repo, "g1").lookup(ITEMS[:1]).sid[0, 0] == 1
        try:
            publish(repo, 2)
        except ArtifactError as error:
            os._exit(0 if read and "read-only" in str(error) else 1)
        os._exit(1)
    refused = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Faults(1, 2, (not refused) + (held(repo) != [1]))


def clock_steps_back(folder: Path, kills: int, chance: random.Random) -> Faults:
    """A clock that jumps to and fro: every answer is the snapshot that was servable at that moment,
    never one from its future.
    """
    repo, lost = new_repository(folder), 0
    for number in (1, 2, 3):
        publish(repo, number)
    now = [day(3)]
    sids, tries = store.OnlineSids(repo, "g1", clock=lambda: now[0]), max(100, kills)
    for _ in range(tries):
        hours = chance.randrange(24, 24 * 5)
        now[0] = START + timedelta(hours=hours)
        got = sids.lookup(ITEMS[:500])
        lost += not (got.sid == min(hours // 24, 3)).all()
    return Faults(tries, tries, lost)


SCENARIOS: dict[str, Callable[[Path, int, random.Random], Faults]] = {
    s.__name__: s
    for s in (
        killed_publishes,
        full_disk,
        altered_files,
        readers_beside_publishes,
        two_writers,
        read_only_directory,
        clock_steps_back,
    )
}


def _held_or_none(repo: Path) -> list[int] | None:
    try:
        return held(repo)
    except AdcError as error:
        print(error, file=sys.stderr)
        return None


def _read_until(repo: Path, stop: object, answers: object) -> None:
    sids, count, bad = store.OnlineSids(repo, "g1"), 0, 0
    answers.put(None)
    newest = 0
    while not stop.is_set():
        try:
            got = sids.lookup(ITEMS)
            number = (got.as_of - START).days
            bad += not (got.sid == number).all() or not got.found.all() or number < newest
            newest = number
        except Exception as error:
            print(repr(error), file=sys.stderr)
            bad += 1
        count += 1
    answers.put((count, bad))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS), metavar="SCENARIO"
    )
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()
    results = {}
    for name in asked.only:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            results[name] = SCENARIOS[name](
                Path(folder), asked.kills, random.Random(asked.seed)
            )._asdict()
        print(name, results[name], file=sys.stderr)
    total = {key: sum(r[key] for r in results.values()) for key in Faults._fields}
    text = json.dumps({"faults": results, **total, "machine": machine()}, indent=2) + "\n"
    if asked.json == "-":
        print(text)
    else:
        Path(asked.json).write_text(text, encoding="utf-8")
    if total["lost"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
