"""One flipped bit in each kind of artefact: is the answer still right, or refused in words? Reads:
a small generated run. Writes: JSON.

    python benchmarks/flips.py --flips 2000 --keep flips.jsonl --json flips.json

With `--keep` every flip is written down as soon as it was tried, and one that is there already is
not tried again, so that two thousand may take several sittings.

Each flip turns one random bit of one random file, asks what people ask of that artefact, and puts
the bit back. Asked is always the shortest way that serves: an online lookup, a late join, a
point-in-time join, the opening of a generation, a promotion, the list of versions; `adc doctor`
compares every sha256 and is not asked. Four outcomes:

    right         the answer is that of before (the bit was not read, or does not matter), or the
                  artefact is refused with an AdcError
    wrong         another answer, although a checksum that costs little could know. Must be 0
    crashed       the process died of a signal, hung, or ended with an error that is not ours. Must
                  be 0
    undetectable  another answer, or a death, that no checksum of the artefact can prevent; counted
                  by artefact, for these reasons:

`lmdb`, `live_lmdb`: neither LMDB's pages nor our rows carry a checksum. A CRC-32 of each row,
computed from Python, would cost a large part of what loading the row costs in all, far more than
the 3 % that we allow. Nor could it know of a flipped key, which makes a row absent, or of a flipped
page number, which LMDB follows out of its file (SIGSEGV, SIGBUS). A store is rebuilt by
`adc materialize`; live rows are compared with the accepted events by `adc verify online`.
`catalogue`: SQLite has no checksum of pages in the build that Python brings (its checksum VFS is an
extension that must be loaded, and PostgreSQL has checksums of its own). The promotion file, which
is what serves, does not depend on it. `parquet`, `live_segments`, `served_log`: pages carry CRC-32
checksums that our readers compare; the footer and the headers of pages have none in the format. The
sha256 of the manifest knows, and `adc doctor` and `adc dataset --verify` compare it; a join reads
only the columns and row groups that it needs, and would have to read every file whole before.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _flip_live import apply_live, live_tables, log_tables, make_live, make_log

from adc_features.artifact import MANIFEST, read_manifest
from adc_features.errors import AdcError
from adc_features.pipeline.run import Run, RunSettings

Answer = Mapping[str, str]
"""Names and digests of what was answered; a later answer is equal when each of these names has the
same digest.
"""

AT = datetime(2026, 1, 1, tzinfo=UTC)
GENERATION = "g1"
LABELS = "labels.parquet"
HUNG = 300.0
"""Seconds until a reader counts as hung; the slowest needs two, on a machine that does nothing
else.
"""


class Artefact(NamedTuple):
    """files: patterns below the run. ask: what people ask of them. excuse: is another answer than
    before undetectable?
    """

    files: tuple[str, ...]
    ask: Callable[[Path], Answer]
    excuse: bool = False


def digest(value: Any) -> str:
    """A sha256 of a value's content, the same for equal values."""
    if isinstance(value, pa.Table):
        value = {
            name: column.to_pylist()
            for name, column in zip(value.column_names, value.columns, strict=True)
        }
    if isinstance(value, np.ndarray):
        value = (str(value.dtype), value.shape, value.tolist())
    return sha256(repr(value).encode()).hexdigest()


def repository(run: Path) -> Path:
    return run / "feature_repo"


def asked_ids(run: Path) -> np.ndarray:
    return pq.read_table(run / LABELS)["item_id"].to_numpy(zero_copy_only=False).astype(np.str_)


# ---- what people ask


def ask_packed(run: Path) -> Answer:
    """A lookup of every item as online, and the late join of the labelled rows."""
    from adc_features.store import OnlineSids, published_timeline

    repo, labels = repository(run), pq.read_table(run / LABELS)
    ids = asked_ids(run)
    served = OnlineSids(repo, GENERATION).lookup(np.unique(ids), now=AT)
    gathered = published_timeline(repo, GENERATION).gather(
        ids, labels["event_timestamp"].to_numpy()
    )
    return {
        "lookup": digest(served.to_arrow()),
        "gather": digest([np.asarray(part).tolist() for part in gathered]),
    }


def ask_online(run: Path) -> Answer:
    """The features of every item and user from the online store, through the service's reader."""
    from adc_features.store import open_reader

    labels, reader = (
        pq.read_table(run / LABELS),
        open_reader(repository(run), service=f"ranker_{GENERATION}"),
    )
    users = np.unique(labels["user_id"].to_numpy(zero_copy_only=False).astype(np.str_))
    return {
        "items": digest(reader.read(item_ids=np.unique(asked_ids(run)))),
        "users": digest(reader.read(user_ids=users)),
    }


def ask_generation(run: Path) -> Answer:
    """The frozen tokenizer, opened: everything that it says, and its tensors."""
    from adc_features.codes.generation import open_generation

    got = open_generation(run / "generation" / "generation")
    facts = {
        name: digest(getattr(got, name))
        for name in (
            "id",
            "tokenizer",
            "spec",
            "settings",
            "quality",
            "trained_through",
            "codebook_hash",
        )
    }
    return facts | {name: digest(np.asarray(array)) for name, array in got.tensors.items()}


def ask_manifests(run: Path) -> Answer:
    """Every manifest with the files that it names,
    what is published, and which generations are live.
    """
    from adc_features.store import published_snapshots
    from adc_features.store.repository import live_generations

    found = {}
    for path in sorted(run.rglob(MANIFEST)):
        found |= {
            f"{path.parent.relative_to(run)}:{name}": digest(value)
            for name, value in read_manifest(path.parent).items()
        }
    found["published"] = digest(published_snapshots(repository(run), GENERATION))
    return found | {"live": digest(live_generations(repository(run)))}


def ask_parquet(run: Path) -> Answer:
    """The point-in-time join of the labelled rows, the joined rows of the run, its data set."""
    from adc_features.data.dataset import read_dataset
    from adc_features.store import training_features
    from training.stages import frame_of

    joined = training_features(
        repository(run), pq.read_table(run / LABELS), service=f"ranker_{GENERATION}"
    )
    frame, dataset = frame_of(Run.open(run)), read_dataset(run / "data" / "dataset")
    tables = {"items": dataset.items, "interactions": dataset.interactions, "joined": joined}
    parts = {
        name: digest(np.asarray(getattr(frame, name)))
        for name in ("times", "labels")
        if hasattr(frame, name)
    }
    return {name: digest(table) for name, table in tables.items()} | parts


def ask_promotion(run: Path) -> Answer:
    """Which pair serves, checked as a service does before it opens it."""
    from adc_features.serving.promotion import PROMOTION, check_promotion, read_promotion

    promotion = read_promotion(run / PROMOTION)
    check_promotion(promotion)
    return {"pair": digest(promotion)}


def ask_ranker(run: Path) -> Answer:
    """The scores of a promoted ranker, opened as a service does."""
    from adc_features.serving.opening import open_bundle
    from adc_features.serving.promotion import PROMOTION, read_promotion

    labels, ids = pq.read_table(run / LABELS), np.unique(asked_ids(run))
    bundle = open_bundle(read_promotion(run / PROMOTION))
    user = labels["user_id"][0].as_py()
    return {"score": digest(np.asarray(bundle.score(user, ids.tolist(), now=AT).score))}


def ask_live(run: Path) -> Answer:
    """Accepted events, live features online and in a join."""
    return {name: digest(table) for name, table in live_tables(run).items()}


def ask_log(run: Path) -> Answer:
    """Every request and candidate of a served log."""
    return {name: digest(table) for name, table in log_tables(run).items()}


def ask_catalogue(run: Path) -> Answer:
    """What there is and what serves, as `adc versions` lists it."""
    from training.deployment import inventory
    from training.deployment.record import catalog_of

    opened = Run.open(run)
    return {"versions": digest(inventory.versions(opened, catalog_of(opened), at=AT))}


PUBLISHED = f"feature_repo/data/item_sid_{GENERATION}"
ARTEFACTS = {
    "packed": Artefact((f"{PUBLISHED}/packed/*.sids",), ask_packed),
    "lmdb": Artefact(("feature_repo/data/online_lmdb/data.mdb",), ask_online, excuse=True),
    "generation": Artefact(("generation/generation/*",), ask_generation),
    "manifests": Artefact(
        (f"**/{MANIFEST}", "feature_repo/data/live_generations.json"), ask_manifests
    ),
    "parquet": Artefact(
        (
            f"{PUBLISHED}/rows/*.parquet",
            "feature_repo/data/statistics/*.parquet",
            "dataset/*.parquet",
            "data/dataset/*.parquet",
        ),
        ask_parquet,
        True,
    ),
    "promotion": Artefact(("promotion.json",), ask_promotion),
    "catalogue": Artefact(("catalog.db",), ask_catalogue, excuse=True),
    "ranker": Artefact(("ranker_codes_weights/model/*",), ask_ranker),
    "live_lmdb": Artefact(("live_shop/data/live/lmdb/data.mdb",), ask_live, excuse=True),
    "live_segments": Artefact(
        ("live_shop/data/live/events/*/*.parquet", "live_shop/data/live/history/*/*.parquet"),
        ask_live,
        excuse=True,
    ),
    "served_log": Artefact(("served_log/*/*.parquet",), ask_log, excuse=True),
}


# ---- the run, the flips


def make_run(folder: Path) -> Path:
    """A small run as far as a promoted ranker, with the rows that are asked for."""
    from adc_features.data.dataset import write_dataset
    from adc_features.data.synthetic import synthetic
    from adc_features.loader.frame import label_table
    from adc_features.pipeline import pairs
    from adc_features.pipeline.stages import STAGES
    from training.deployment.promotions import deploy
    from training.deployment.record import catalog_of
    from training.stages import DATASET, RANKERS

    made = synthetic(seed=0, items=120, users=120, interactions=2500).dataset
    write_dataset(made, folder / "shop")
    run = Run.start(
        folder / "run",
        RunSettings(source=str(folder / "shop"), snapshots=1, codebook_size=8, steps=61, seeds=1),
    )
    for stage in (*STAGES, DATASET, RANKERS["codes_weights"]):
        run.ensure(stage)
    deploy(run, catalog_of(run), pairs.promotion_of(run, promoted_at=AT), at=AT)
    pq.write_table(label_table(made.interactions.slice(2000)), run.directory / LABELS)
    make_live(run.directory)
    make_log(run.directory)
    return run.directory


def forked(run: Path, ask: Callable[[Path], Answer]) -> tuple[str, Any]:
    """What a fresh child answers: ("answer", digests), ("refused", words), ("error", words),
    ("signal", number) or ("hung", seconds).
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(run, ask, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        old = signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, HUNG)
        began, text = time.monotonic(), pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    if status == -signal.SIGKILL and time.monotonic() - began >= HUNG:
        return "hung", HUNG
    if status < 0 or not text:
        return "signal", -status
    kind, content = json.loads(text)
    return kind, content


def _answer(run: Path, ask: Callable[[Path], Answer], writing: int) -> None:
    """The child's part; never returns."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        result: tuple[str, Any] = ("answer", dict(ask(run)))
    except AdcError as error:
        result = ("refused", str(error)[:300])
    except BaseException as error:  # whatever it is, the parent must learn of it
        result = ("error", f"{type(error).__module__}.{type(error).__name__}: {error}"[:300])
    os.write(writing, json.dumps(result).encode())
    os._exit(0)


def flipped(path: Path, at: int, bit: int) -> contextlib.AbstractContextManager[None]:
    """The file with one bit turned, in place; its content is put back afterwards, whatever a reader
    made of it.
    """

    @contextlib.contextmanager
    def turned() -> Any:
        whole = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([whole[at] ^ (1 << bit)]))
        try:
            yield
        finally:
            path.write_bytes(whole)
            for beside in ("-journal", "-wal", "-shm"):
                path.with_name(path.name + beside).unlink(missing_ok=True)

    return turned()


def try_flips(
    source: str, numbers: list[int], seed: int, keep: Path | None
) -> list[dict[str, Any]]:
    """Try the flips of these numbers on a copy of the run; runs in a process of its own, each
    reader in a child of that. keep: a file that every outcome is appended to.
    """
    from adc_features import store
    from adc_features.serving import (
        scoring,  # noqa: F401  imported once, before the children
    )

    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory(prefix="adc-flips-") as folder:
        run = Path(shutil.copytree(source, Path(folder) / "run"))
        forked(run, lambda run: store.apply(repository(run)) or {})  # declared where it lies now
        forked(run, apply_live)
        before = {}
        for name, artefact in ARTEFACTS.items():
            forked(run, artefact.ask)  # whatever is written at the first look
            kind, before[name] = forked(run, artefact.ask)
            if kind != "answer":
                raise RuntimeError(f"{name} does not answer before any flip: {kind} {before[name]}")
        names, found = list(ARTEFACTS), []
        for number in numbers:
            chance = random.Random(f"{seed}/{number}")
            found.append(_try(run, names[number % len(names)], before, chance))
            if keep is not None:
                with keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"seed": seed, "number": number, **found[-1]}) + "\n")
        return found


def _try(run: Path, name: str, before: Mapping[str, Any], chance: random.Random) -> dict[str, Any]:
    artefact = ARTEFACTS[name]
    files = sorted(
        {
            path
            for pattern in artefact.files
            for path in run.glob(pattern)
            if path.is_file() and path.stat().st_size
        }
    )
    path = chance.choice(files)
    at, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
    with flipped(path, at, bit):
        kind, content = forked(run, artefact.ask)
    if kind == "refused" or (
        kind == "answer" and all(content.get(part) == value for part, value in before[name].items())
    ):
        outcome = "right"
    elif artefact.excuse and (kind == "answer" or ("lmdb" in name and kind in ("signal", "hung"))):
        outcome = "undetectable"
    else:
        outcome = "wrong" if kind == "answer" else "crashed"
    how = "" if kind == "answer" else str(content)
    return {
        "artefact": name,
        "file": str(path.relative_to(run)),
        "at": at,
        "bit": bit,
        "kind": kind,
        "outcome": outcome,
        "how": how,
    }


def flips(
    count: int, seed: int = 0, *, workers: int = 2, keep: Path | None = None
) -> dict[str, Any]:
    """Try `count` flips: {"tried", "wrong", "crashed", "undetectable", "by_artefact", "examples"};
    examples of what was not right. keep: a file of outcomes to begin with and to append to.
    """
    done = {one.pop("number"): one for one in _kept(keep) if one.pop("seed") == seed}
    found = [one for number, one in done.items() if number < count]
    left = [number for number in range(count) if number not in done]
    with (
        tempfile.TemporaryDirectory(prefix="adc-flips-run-") as folder,
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool,
    ):
        if left:
            run = pool.submit(_made, folder).result()
            parts = [left[start::workers] for start in range(min(workers, len(left)))]
            tries = [pool.submit(try_flips, run, part, seed, keep) for part in parts]
            found += [one for part in tries for one in part.result()]
    totals = Counter(one["outcome"] for one in found)
    by_artefact = {
        name: {"tried": 0, "refused": 0, "wrong": 0, "crashed": 0, "undetectable": 0, "died": 0}
        for name in ARTEFACTS
    }
    for one in found:
        counts = by_artefact[one["artefact"]]
        counts["tried"] += 1
        counts["refused"] += one["kind"] == "refused"
        counts["died"] += one["kind"] in ("signal", "hung")
        if one["outcome"] != "right":
            counts[one["outcome"]] += 1
    examples = [one for one in found if one["outcome"] in ("wrong", "crashed")][:40] + [
        one for one in found if one["outcome"] == "undetectable"
    ][:10]
    return {
        "tried": len(found),
        **{name: totals[name] for name in ("wrong", "crashed", "undetectable")},
        "by_artefact": by_artefact,
        "examples": examples,
    }


def _kept(keep: Path | None) -> list[dict[str, Any]]:
    """The outcomes of a file, without a line that was cut off."""
    if keep is None or not keep.is_file():
        return []
    lines = keep.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line.endswith("}")]


def _made(folder: str) -> str:
    with contextlib.redirect_stderr(io.StringIO()):
        return str(make_run(Path(folder)))


def main() -> None:
    parser = argparse.ArgumentParser(description="One flipped bit in each kind of artefact.")
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", default="-")
    asked = parser.parse_args()
    from _measure import machine

    found = flips(asked.flips, asked.seed, workers=asked.workers, keep=asked.keep)
    result = {"flips": found, "machine": machine()}
    text = json.dumps(result, indent=2)
    if asked.json == "-":
        print(text)
    else:
        Path(asked.json).write_text(text + "\n", encoding="utf-8")
    if result["flips"]["wrong"] or result["flips"]["crashed"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
