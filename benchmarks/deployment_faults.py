"""Does a deployment lose anything when its commands are killed? SIGKILL at random moments of
snapshot, renew (fit and publish), retrain, promote, rollback, gc.

After every kill: nothing that was on record is gone or altered, but for garbage when the command
was gc; what is promoted can serve, and `adc doctor`'s checks of the deployment find nothing. Then
the same command runs to its end.

    python benchmarks/deployment_faults.py --kills 300 --json -
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from _measure import write_report

SHARES = {"promote": 6, "rollback": 5, "snapshot": 3, "retrain": 3, "renew": 1, "gc": 2}
"""How often each command is drawn, relative to the others; the quick ones more often."""


def adc(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-c", "from adc_features.cli.main import main; main()", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


class Deployment:
    """A small shop's run with two rankers, and the commands
    that are killed on it; each is safe to repeat.
    """

    def __init__(self, place: Path) -> None:
        from adc_features.pipeline.run import Run, RunSettings
        from adc_features.pipeline.stages import STAGES, split_of
        from training.stages import DATASET, RANKERS

        adc(
            "data",
            "synthetic",
            "--out",
            str(place / "shop"),
            "--items",
            "150",
            "--users",
            "150",
            "--interactions",
            "4000",
        )
        self.run = Run.start(
            place / "run",
            RunSettings(
                source=str(place / "shop"), snapshots=2, codebook_size=8, steps=80, seeds=1
            ),
        )
        for stage in (*STAGES, DATASET, RANKERS["codes"], RANKERS["codes_weights"]):
            self.run.ensure(stage)
        self.split = split_of(self.run)
        self.number = 0

    def command(self, name: str) -> Callable[[], Any]:
        """The next call of this command, with arguments that it did not have before."""
        from adc_features.errors import InputError
        from adc_features.pipeline.pairs import promotion_of
        from adc_features.pipeline.snapshots import renew, snapshot
        from training.deployment.cleanup import collect
        from training.deployment.promotions import deploy, rollback
        from training.deployment.record import catalog_of
        from training.deployment.retrain import retrain
        from training.deployment.settings import RetrainSettings

        self.number += 1
        n, run, at = self.number, self.run, datetime.now(UTC)
        record = catalog_of(run)
        record.engine.dispose()  # no connection crosses a fork

        def kept(work: Callable[[], Any]) -> Any:
            try:
                return work()
            except InputError:  # nothing to roll back to, nothing new: an answer too
                return None

        end = self.split.eval_end
        calls: dict[str, Callable[[], Any]] = {
            "promote": lambda: deploy(
                run,
                catalog_of(run),
                promotion_of(run, recipe=("codes", "codes_weights")[n % 2], promoted_at=at),
                at=at,
            ),
            "rollback": lambda: kept(lambda: rollback(run, catalog_of(run), at=at)),
            "snapshot": lambda: kept(
                lambda: snapshot(run, self.split.train_end + timedelta(hours=n))
            ),
            "retrain": lambda: kept(
                lambda: retrain(
                    run,
                    catalog_of(run),
                    as_of=end - timedelta(minutes=n),
                    settings=RetrainSettings(
                        window_days=10,
                        min_rows=20,
                        every_days=1,
                        min_gain=-1.0,
                        max_loss=1.0,
                        max_miscalibration=1.0,
                    ),
                    at=at,
                )
            ),
            "renew": lambda: kept(lambda: renew(run, f"g{n + 1}")),
            "gc": lambda: collect(run, catalog_of(run), at=at),
        }
        return calls[name]

    def state(self) -> dict[str, set[str]]:
        """What is on record, and what of it a clean-up may delete."""
        from training.deployment.cleanup import garbage
        from training.deployment.record import catalog_of

        record = catalog_of(self.run)
        unneeded = garbage(self.run, record)
        found = {
            "rankers": {r["directory"] for r in record.rankers() if r["state"] == "ready"},
            "generations": {g["id"] for g in record.generations() if g["state"] == "live"},
            "snapshots": {f"{s['generation']} {s['as_of']}" for s in record.snapshots()},
            "promotions": {str(p["number"]) for p in record.promotions()},
            "garbage": {*unneeded["rankers"], *unneeded["generations"]},
        }
        record.engine.dispose()
        return found

    def settle(self) -> None:
        """Put on record what is there, so that what may be deleted is known before a clean-up."""
        from training.deployment.record import catalog_of, sync

        record = catalog_of(self.run)
        sync(self.run, record, at=datetime.now(UTC))
        record.engine.dispose()

    def problems(self) -> list[str]:
        """What `adc doctor` says of the deployment as the kill left it."""
        from training.deployment.inventory import problems
        from training.deployment.record import catalog_of

        record = catalog_of(self.run)
        said = problems(self.run, record)
        record.engine.dispose()
        return said


def forked(work: Callable[[], Any]) -> int:
    """The process that does this work; it ends with 0, or 1 after an error on stderr."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def faults(kills: int, seed: int) -> dict[str, Any]:
    """{"kills", "by_command", "lost", "details"} of this many kills."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(Path(folder))
        seconds: dict[str, float] = {}
        tried, lost = dict.fromkeys(SHARES, 0), []
        ended(forked(deployment.command("promote")))
        while (done := sum(tried.values())) < kills:
            name = chance.choices(list(SHARES), list(SHARES.values()))[0]
            deployment.settle()
            work, before = deployment.command(name), deployment.state()
            child = forked(work)
            time.sleep(chance.uniform(0.0, seconds.get(name, 0.5)))
            os.kill(child, signal.SIGKILL)
            tried[name] += ended(child) == -signal.SIGKILL
            said, after = deployment.problems(), deployment.state()
            free = before["garbage"] if name == "gc" else set()
            gone = {
                kind: sorted(left)
                for kind in before
                if kind != "garbage" and (left := before[kind] - after[kind] - free)
            }
            began = time.monotonic()
            repeated = ended(forked(work)) == 0
            seconds[name] = time.monotonic() - began
            if said or gone or not repeated or (said := deployment.problems()):
                lost.append({"command": name, "problems": said, "gone": gone, "repeated": repeated})
            if (done + 1) % 20 == 0:
                print(f"kills={done + 1} lost={len(lost)} {tried}", file=sys.stderr)
    return {"kills": sum(tried.values()), "by_command": tried, "lost": len(lost), "details": lost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()
    write_report(asked.json, systems={}, ratios={}, faults=faults(asked.kills, asked.seed))


if __name__ == "__main__":
    main()
