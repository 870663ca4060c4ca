"""Does a run that is killed again and again lose anything? Kills `adc run` with SIGKILL at random
moments, then lets it finish.

After every kill `adc doctor` must find nothing broken; in the end the scores must equal those of a
run that was never killed.

    python benchmarks/kill.py --kills 20 --json kill.json
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import machine

from adc_features.artifact import json_text

SETTINGS = ["--seeds", "1", "--snapshots", "3", "--codebook-size", "8", "--steps", "150"]


def adc(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "from adc_features.cli.main import main; main()", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finished(*words: str) -> float:
    """Run a command to its end; the seconds it took."""
    began = time.monotonic()
    process = adc(*words)
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"adc {' '.join(words)} failed: {errors.decode()[-2000:]}")
    return time.monotonic() - began


def broken(run: Path) -> bool:
    """Does the doctor find an error?
    A run that was killed before its first file has nothing to find.
    """
    if not (run / "run.json").exists():
        return False
    doctor = adc("doctor", str(run))
    doctor.communicate()
    return doctor.returncode != 0


def scores(run: Path) -> object:
    return json.loads((run / "metrics.json").read_text())["recipes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shop, whole = str(place / "shop"), place / "whole"
        finished(
            "data",
            "synthetic",
            "--out",
            shop,
            "--items",
            "400",
            "--users",
            "300",
            "--interactions",
            "6000",
        )
        seconds = finished("run", "--data", shop, "--run", str(whole), *SETTINGS)
        kills = unsound = lost = rounds = 0
        while True:
            target = place / f"killed{rounds}"
            process = adc("run", "--data", shop, "--run", str(target), *SETTINGS)
            try:
                process.wait(
                    timeout=chance.uniform(0.5, seconds / 3) if kills < options.kills else None
                )
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                unsound += broken(target)
                print(f"kills={kills} unsound={unsound} lost={lost}", file=sys.stderr)
            else:
                lost += process.returncode != 0 or scores(target) != scores(whole)
                rounds += 1
                if kills >= options.kills:
                    break
    result = {
        "faults": {"kills": kills, "unsound": unsound, "lost": lost, "runs": rounds},
        "machine": machine(),
    }
    print(json_text(result))
    if options.json:
        options.json.write_text(json_text(result))


if __name__ == "__main__":
    main()
