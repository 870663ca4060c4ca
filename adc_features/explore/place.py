"""What is explored. Reads: the layout of a run, a Feast repository, a promotion file. Writes:
Place.
"""

import shlex
from collections.abc import Sequence
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
    ItemKey,
    LiveGeneration,
    live_generations,
    publication_path,
    statistics_path,
)
from adc_features.store.services.item_files import is_file

FEATURE_REPO = "feature_repo"
"""The Feast repository of a run, in its directory."""
OWN_KEY = ItemKey("item", "item_id", "String")
"""Of a repository that this library wrote."""
TOKENIZERS = "tokenizers"
"""Where `adc tokenize` keeps those of a repository."""


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
    vectors : tuple of str
        Features `<view>__<feature>` and Parquet files with vectors of the items.
    """

    option: str
    given: str
    repo: Path
    run: Path | None = None
    promotion: Path | None = None
    items: Path | None = None
    vectors: tuple[str, ...] = ()

    def generations(self) -> list[LiveGeneration]:
        """What is published, oldest first; none before the first publication."""
        return live_generations(self.repo)

    def item_key(self, columns: Sequence[str] = ()) -> ItemKey:
        """What the repository calls its items: the newest codes say, else, of the columns of a
        table of items, what is declared.
        """
        if generations := self.generations():
            return generations[-1].key or OWN_KEY
        if not columns or OWN_KEY.join_key in columns:
            return OWN_KEY
        from adc_features.store.services.item_rows import entity_key

        return entity_key(self.repo, columns)

    def command(self, name: str, *arguments: str) -> str:
        """An `adc` command on this place, to be pasted into a shell. Commands other than `explore`
        take the run or the repository.
        """
        where = [self.option, self.given]
        if name == "explore":
            where += ["--items", str(self.items)] if self.items and not self.run else []
            where += [word for one in self.vectors for word in ("--vectors", one)]
        if name != "explore" and self.promotion is not None:
            where = ["--run", str(self.run)] if self.run else ["--repo", str(self.repo)]
        return shlex.join(["adc", name, *where, *arguments])

    def made_of(self) -> dict[str, Any]:
        """What an index follows from; changes when any of it does."""
        manifests = {g.id: publication_path(self.repo, g.id) for g in self.generations()}
        tokenizers = {f"tokenizer {g}": self.repo / TOKENIZERS / g for g in manifests}
        if (statistics_path(self.repo) / MANIFEST).is_file():
            manifests["statistics"] = statistics_path(self.repo)
        manifests |= {n: d for n, d in tokenizers.items() if (d / MANIFEST).is_file()}
        stages = ("text", "behavior") if self.run else ()
        manifests |= {s: self.run / s for s in stages if self.run and (self.run / s).is_dir()}
        return {
            "index": 3,  # the layout of the index itself
            "published": {n: file_hash(d / MANIFEST) for n, d in manifests.items()},
            "items": _state(self.items),
            "vectors": [_state(Path(n)) if is_file(n) else n for n in self.vectors],
        }

    def tokenizer(self, live: LiveGeneration) -> tuple[str | None, list[str]]:
        """Which tokenizer made a generation, and what each position reads: None, and nothing but
        numbers, where neither the run nor the repository has it.
        """
        directories = [self.repo / TOKENIZERS / live.id / "generation"]
        if self.run:
            directories += [
                self.run / "generation" / "generation",
                self.run / GENERATIONS / live.id,
            ]
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
    vectors: Sequence[str] = (),
) -> Place:
    """The place that exactly one of `run`, `repo` and `promotion` names.

    items: a table with titles; default the run's own. vectors: features or Parquet files, beside a
    run's own. Raises InputError when none or several places are given, or one is not what it should
    be.
    """
    given = {"--run": run, "--repo": repo, "--promotion": promotion}
    named = {option: path for option, path in given.items() if path is not None}
    if len(named) != 1:
        raise InputError(
            f"got {' and '.join(named) or 'nothing'} to explore; give one of {', '.join(given)}"
        )
    if items is not None and not items.is_file():
        raise InputError(f"--items is {items}, which is no file; give a Parquet table of items")
    for name in vectors:
        if is_file(name) and not Path(name).is_file():
            raise InputError(f"--vectors is {name}, which is no file; give a Parquet file of items")
    (option, path) = next(iter(named.items()))
    if repo is not None:
        if not (repo / CONFIG).is_file():
            raise InputError(f"{repo} has no {CONFIG}; give the directory of a Feast repository")
        return Place(option, str(path), repo, items=items, vectors=tuple(vectors))
    if promotion is not None:
        served = read_promotion(promotion).repository
        run = promotion.resolve().parent
        if not (run / "run.json").is_file() or served != (run / FEATURE_REPO).resolve():
            return Place(option, str(path), served, None, promotion, items, tuple(vectors))
    assert run is not None
    if not (run / "run.json").is_file():
        raise InputError(f"{run} has no run.json; give a directory that `adc run` made")
    if not (run / FEATURE_REPO / CONFIG).is_file():
        raise InputError(
            f"{run} has no {FEATURE_REPO} yet; run `adc run` or `adc publish`, which make it"
        )
    own = run / "data" / "dataset" / "items.parquet"
    table = items or (own if own.is_file() else None)
    repo = run / FEATURE_REPO
    return Place(option, str(path), repo, run, promotion, table, tuple(vectors))


def _state(path: Path | None) -> list[Any] | None:
    """What tells one content of a file from the next without reading it."""
    if path is None:
        return None
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]
