"""The run of `before_formats.tar.xz`, unpacked where a test wants it."""

import json
import tarfile
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from adc_features.cli.main import application

ARCHIVE = Path(__file__).parent / "before_formats.tar.xz"
DOCUMENTS = {
    "run": "run.json",
    "promotion": "promotion.json",
    "live_generations": "feature_repo/data/live_generations.json",
    "online_record": "feature_repo/data/online.json",
}
"""Kind -> what `adc migrate` gives a format number, in its order."""


def unpacked(place: Path) -> Path:
    """The run in a new directory; the data that it was made from lies beside it, and the answers of
    the version that wrote it.
    """
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(place, filter="data")
    return place / "run"


def answers(run: Path) -> dict[str, Any]:
    """What the version that wrote the run answered."""
    return json.loads((run.parent / "answers.json").read_text())


def adc(*words: object, expect: tuple[int, ...] = (0,)) -> Any:
    """What a command of today says with `--json`; its exit code is one of those expected."""
    result = CliRunner().invoke(
        application(), [*map(str, words), "--json", "-"], catch_exceptions=False
    )
    assert result.exit_code in expect, result.output
    return json.loads(result.stdout)
