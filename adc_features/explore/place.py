"""What is explored. Reads: the layout of a run, a Feast repository, a promotion file. Writes:
Place.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adc_features.artifact import MANIFEST, file_hash, read_manifest
from adc_features.codes.generation import GENERATIONS
from adc_features.codes.spec import SidSpec
from adc_features.errors import InputError
from adc_features.serving.promotion import read_promotion
from adc_features.store.repository import (
    CONFIG,
    LiveGeneration,
    live_generations,
    publication_path,
    statistics_path,
)

FEATURE_REPO = "feature_repo"
"""The Feast repository of a run, in its directory."""


@dataclass(frozen=True)
class Place:
    """What is explored.

    Parameters
    ----------
    option, given : str
        How it was named: `--run`, `--repo` or `--promotion`, and by what.
    repo : Path
        The Feast repository.
    run : Path or None
        The run that the repository belongs to: titles, vectors and rankers are there. A promotion
        file in a run names it, too.
    promotion : Path or None
        The promotion file whose ranker decides; None where the run or the repository says.
    items : Path or None
        A Parquet table of items with an id column and `title`.
    """

    option: str
    given: str
    repo: Path
    run: Path | None = None
    promotion: Path | None = None
    items: Path | None = None

    def generations(self) -> list[LiveGeneration]:
        """What is published, oldest first. Raises InputError when nothing is."""
        if not (found := live_generations(self.repo)):
            raise InputError(
                f"no codes are published in {self.repo}; publish a generation first, with `adc run`"
                " or `adc publish`"
            )
        return found

    def command(self, name: str, *arguments: str) -> str:
        """An `adc` command on this place, to be pasted into a shell. Commands other than `explore`
        take the run or the repository.
        """
        where = [self.option, self.given]
        if name != "explore" and self.promotion is not None:
            where = ["--run", str(self.run)] if self.run else ["--repo", str(self.repo)]
        return shlex.join(["adc", name, *where, *arguments])

    def made_of(self) -> dict[str, Any]:
        """What an index follows from; changes when any of it does."""
        manifests = {g.id: publication_path(self.repo, g.id) for g in self.generations()}
        if (statistics_path(self.repo) / MANIFEST).is_file():
            manifests["statistics"] = statistics_path(self.repo)
        stages = ("text", "behavior") if self.run else ()
        manifests |= {s: self.run / s for s in stages if self.run and (self.run / s).is_dir()}
        return {
            "index": 2,  # the layout of the index itself
            "published": {n: file_hash(d / MANIFEST) for n, d in manifests.items()},
            "items": _state(self.items),
        }

    def tokenizer(self, live: LiveGeneration) -> tuple[str | None, list[str]]:
        """Which tokenizer made a generation, and what each position reads: None, and nothing but
        numbers, where the run is not there to say.
        """
        directories = (
            [self.run / "generation" / "generation", self.run / GENERATIONS / live.id]
            if self.run
            else []
        )
        for directory in directories:
            if (directory / MANIFEST).is_file():
                manifest = read_manifest(directory, verify=False)
                if manifest["id"] == live.id:
                    names = [p.name for p in SidSpec.from_dict(manifest["spec"]).positions]
                    return manifest["tokenizer"], names
        return None, [""] * live.length


def place_of(
    *,
    run: Path | None = None,
    repo: Path | None = None,
    promotion: Path | None = None,
    items: Path | None = None,
) -> Place:
    """The place that exactly one of `run`, `repo` and `promotion` names.

    items: a table with titles; default the run's own. Raises InputError when none or several are
    given, or one is not what it should be.
    """
    given = {"--run": run, "--repo": repo, "--promotion": promotion}
    named = {option: path for option, path in given.items() if path is not None}
    if len(named) != 1:
        raise InputError(
            f"got {' and '.join(named) or 'nothing'} to explore; give one of {', '.join(given)}"
        )
    if items is not None and not items.is_file():
        raise InputError(f"--items is {items}, which is no file; give a Parquet table of items")
    (option, path) = next(iter(named.items()))
    if repo is not None:
        if not (repo / CONFIG).is_file():
            raise InputError(f"{repo} has no {CONFIG}; give the directory of a Feast repository")
        return Place(option, str(path), repo, items=items)
    if promotion is not None:
        served = read_promotion(promotion).repository
        run = promotion.resolve().parent
        if not (run / "run.json").is_file() or served != (run / FEATURE_REPO).resolve():
            return Place(option, str(path), served, None, promotion, items)
    assert run is not None
    if not (run / "run.json").is_file():
        raise InputError(f"{run} has no run.json; give a directory that `adc run` made")
    own = run / "data" / "dataset" / "items.parquet"
    table = items or (own if own.is_file() else None)
    return Place(option, str(path), run / FEATURE_REPO, run, promotion, table)


def _state(path: Path | None) -> list[Any] | None:
    """What tells one content of a file from the next without reading it."""
    if path is None:
        return None
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]
