"""What both examples of real data share. Reads: events. Writes: tables, answers of commands.

A feature that is computed from events is known a moment after them: a row that tells of the events
up to and including time t has the event time t + 1 s, so that a label row at t never sees itself or
what happened in the same second.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

KNOWN_AFTER = np.timedelta64(1, "s")
"""From an event until features tell of it."""
UTC_US = pa.timestamp("us", tz="UTC")


class SoFar(NamedTuple):
    """What was known of each key after each of the moments at which it had events.

    last: int64 [M], the place of the newest event that a row tells of. start: int64 [M], the place
    of the key's first event. order: int64 [N], events by key and time, which both point into.
    known: datetime64[us] [M], from when the row is visible.
    """

    order: np.ndarray
    start: np.ndarray
    last: np.ndarray
    known: np.ndarray

    @property
    def count(self) -> np.ndarray:
        """Events so far, int64 [M]."""
        return self.last - self.start + 1

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum of the events' values so far, float64 [M]. values: [N], in the log's order."""
        sums = np.concatenate([[0.0], np.cumsum(values[self.order], dtype=np.float64)])
        return sums[self.last + 1] - sums[self.start]

    def recent(self, values: pa.Array, last: int) -> pa.Array:
        """The values of the newest `last` events so far, newest last: list [M]."""
        begin = np.maximum(self.start, self.last + 1 - last)
        sizes = self.last + 1 - begin
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        places = self.order[np.repeat(begin, sizes) + within]
        flat = values.take(pa.array(places))
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat)


def so_far(keys: np.ndarray, times: np.ndarray) -> SoFar:
    """Of N events of some keys, a row for each key and each moment at which it has events.

    times: datetime64 [N]; events of one key at one time become known together.
    """
    order = np.lexsort((times, keys))
    keys, times = keys[order], times[order]
    new_key = np.append(True, keys[1:] != keys[:-1])
    ends = np.append((keys[1:] != keys[:-1]) | (times[1:] != times[:-1]), True)
    last = np.flatnonzero(ends)
    start = np.maximum.accumulate(np.where(new_key, np.arange(len(keys)), 0))[last]
    known = (times[last] + KNOWN_AFTER).astype("datetime64[us]")
    return SoFar(order, start, last, known)


def utc(times: np.ndarray) -> pa.Array:
    """datetime64 in UTC as timestamps with a zone."""
    return pa.array(times.astype("datetime64[us]")).cast(UTC_US)


def write_files(folder: Path, tables: dict[str, pa.Table], files: dict[str, str]) -> None:
    """Tables as <name>.parquet and text files, into a folder that is new or empty."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty; give --work a folder that is new or empty")
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def feast(repo: Path, *words: str) -> None:
    """Run `feast -c REPO words`."""
    _run([str(Path(sys.executable).parent / "feast"), "-c", str(repo), *words])


def adc(scratch: Path, *words: str) -> dict[str, Any]:
    """Run `adc words --json SCRATCH/<command>.json`, and return what it wrote there."""
    answer = scratch / f"{words[0]}.json"
    answer.unlink(missing_ok=True)
    code = "from adc_features.cli.main import main; main()"
    _run([sys.executable, "-c", code, *words, "--json", str(answer)])
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        told = " ".join(Path(command[0]).name if n == 0 else w for n, w in enumerate(command))
        raise SystemExit(f"{told} failed:\n{(done.stderr or done.stdout)[-3000:]}")


def train_and_judge(
    repo: Path, labels: Path, explained: str, scratch: Path, *, seeds: int, final: bool
) -> dict[str, Any]:
    """Inputs, training, evaluation and importance of the declared rankers, by the commands.

    explained: the ranker whose inputs are exchanged. final: what was trained before the validation
    rows is also judged on the test rows.
    """
    log = ["--repo", str(repo), "--labels", str(labels)]
    found: dict[str, Any] = {"inputs": adc(scratch, "inputs", *log, "--ranker", explained)}
    found["validation"] = adc(scratch, "train", *log, "--seeds", str(seeds), "--no-importance")
    if final:
        found["test"] = adc(scratch, "evaluate", *log, "--final", "--no-importance")
    found["explain"] = adc(scratch, "explain", *log, "--ranker", explained)
    return found
