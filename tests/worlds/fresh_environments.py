"""Programs that run where no source of ours is found."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command, **options):
    """Run it where no source of ours is found; its output, with what it said when it failed."""
    options.setdefault("env", outside())
    done = subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def outside(**more):
    """The environment's variables, without a path to our sources."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | more
