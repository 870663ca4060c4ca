"""How `before_formats.tar.xz` was made: a run, its Feast repository, a promotion and a catalogue,
written by the last commit before artefacts carried format numbers (806b9f8).

    git worktree add ../before 806b9f8
    PYTHONPATH=../before python tests/migrations/make_fixture.py \\
        tests/migrations/before_formats.tar.xz

The commands are that commit's own. Only the networks are narrower than its recipes ask for, which
keeps the archive small; the data is generated. Paths are absolute in Feast's registry and in
`run.json`, so everything is made in PLACE, which no machine of a reader is expected to have.
`answers.json` keeps what that commit answered, for today's code to give the same answers.
"""

import json
import shutil
import sqlite3
import sys
import tarfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

PLACE = Path("/srv/adc-before-formats")
SHOP = ("--items", "120", "--users", "120", "--interactions", "2500")
RUN = ("--seeds", "1", "--snapshots", "1", "--codebook-size", "8", "--steps", "61")
LEFT_OUT = ("report.html", ".lock", "lock.mdb", "catalog.db-shm", "catalog.db-wal")
"""Files that no manifest names and no reader needs; the catalogue takes its log in first."""
USER = "u000003"
RANKERS = ("ranker_codes_weights", "ranker_no_sid", "ranker_xgboost_codes_weights")
"""The rankers that are kept; the others are only read by the report."""


def main(archive: Path) -> None:
    """Make everything in PLACE, then pack it."""
    narrow()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    shop, run = PLACE / "shop", PLACE / "run"
    adc("data", "synthetic", "--out", shop, *SHOP)
    adc("run", "--data", shop, "--run", run, *RUN)
    for ranker in run.glob("ranker_*"):
        if ranker.name not in RANKERS:
            shutil.rmtree(ranker)
    adc("promote", "--run", run)
    adc("retrain", "--run", run, "--data", shop, "--min-rows", "50", expect=(0, 10))
    (PLACE / "answers.json").write_text(json.dumps(answers(run), indent=1) + "\n")
    shutil.rmtree(run / ".partial", ignore_errors=True)
    with closing(sqlite3.connect(run / "catalog.db")) as catalog:
        catalog.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in sorted(PLACE.rglob("*")):
            if path.name not in LEFT_OUT and "shop-truth" not in path.name:
                packed.add(path, path.relative_to(PLACE), recursive=False, filter=anonymous)


def narrow() -> None:
    """Smaller networks than the recipes ask for, with the same code."""
    from adc_features.encoders import behavior
    from adc_features.tokenizer import fit
    from training.rankers import ppnet

    adc_recipe, softmax = fit.RECIPES["adc"], behavior.RECIPES["full_softmax"]
    fit.RECIPES["adc"] = lambda: replace(adc_recipe(), hidden=16, latent=16, aligned=16)
    behavior.RECIPES["full_softmax"] = lambda: replace(softmax(), dim=16, blocks=1, length=16)
    small = {"embedding": 4, "hidden": (8, 4), "gate": 4, "networks": 2, "fresh_hidden": 8}
    ppnet.PPNetSettings.__init__.__defaults__ = tuple(
        small.get(name, value)
        for name, value in zip(
            ppnet.PPNetSettings.__dataclass_fields__,
            ppnet.PPNetSettings.__init__.__defaults__,
            strict=True,
        )
    )


def adc(*words: Any, expect: tuple[int, ...] = (0,)) -> None:
    """Run a command of that commit in this process."""
    from typer.testing import CliRunner

    from training.cli import app

    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code in expect, result.output
    print("adc", *words, "->", result.exit_code)


def answers(run: Path) -> dict[str, Any]:
    """What that commit answers: looked up, ranked, joined, on record."""
    shown = {}
    items = [f"i{n:06d}" for n in range(0, 120, 7)] + ["nobody"]
    now = json.loads((run / "online" / "online.json").read_text())["now"]
    for name, words in {
        "lookup": ["lookup", *items, "--run", run],
        "rank": ["rank", USER, *items, "--run", run, "--now", now],
        "versions": ["versions", "--run", run],
    }.items():
        adc(*words, "--json", PLACE / "one.json")
        shown[name] = json.loads((PLACE / "one.json").read_text())
    (PLACE / "one.json").unlink()
    return {"user": USER, "items": items, "now": now} | shown


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member without this machine's users."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
