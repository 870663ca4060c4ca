"""A run directory and its stages. Reads and writes:
`<run>/run.json`, `<run>/<stage>/`, `<run>/events.jsonl`.

Each stage fills a fresh directory whose manifest, written last, holds what it was made of: the
version of its code, its settings with the values that a named recipe stands for, and the files of
the stages that it reads. A stage that would be made of the same is reused; a killed one leaves
nothing visible, and what it had checkpointed under
`<run>/.partial/` is picked up by the next attempt.
"""

import json
import logging
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from adc_features.artifact import (
    MANIFEST,
    append_line,
    ensure_directory,
    json_text,
    read_manifest,
    within,
    write_document,
)
from adc_features.errors import ArtifactError, InputError
from adc_features.file_lock import file_lock
from adc_features.formats import unnumbered
from adc_features.pipeline.fingerprints import hash_of, is_same
from adc_features.pipeline.run_settings import RunSettings
from adc_features.redaction import redacted

__all__ = ["Progress", "Run", "RunSettings", "Stage", "peak_memory"]

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
T = TypeVar("T")
StageName = Literal["data", "text", "behavior", "generation", "codes", "publication", "online"]
"""The library's stages, by name for those who cannot import them: what they are built from."""


class Stage(NamedTuple):
    """One step of a run.

    Parameters
    ----------
    name : str
        The stage's directory in the run.
    reads : tuple of Stage
        Stages whose files it uses. Their settings, files, code versions and recipes are compared
        before a single stage goes on from them.
    settings : tuple of str
        The run settings that it depends on.
    build : callable
        `build(run, directory)` fills the directory and returns the facts for its manifest.
    outside : callable, optional
        `outside(run)` describes what it made of or made outside the run's stage directories (source
        files, the Feast repository); the stage is redone when that changes.
    version : int
        The version of its code: raise it when the same settings and inputs give another result.
    recipe : callable, optional
        `recipe(settings)` gives every value that a name among its settings stands for, so that a
        changed default redoes the stage; and settings that came later, None where they are unset,
        so that what was built before stays.
    guard : callable, optional
        `guard(run)` is called before a complete stage is built again of something else; it raises
        when that must not be.
    """

    name: str
    reads: tuple["Stage", ...]
    settings: tuple[str, ...]
    build: Callable[["Run", Path], Mapping[str, Any]]
    outside: Callable[["Run"], Any] | None = None
    version: int = 1
    recipe: Callable[[RunSettings], Mapping[str, Any] | None] | None = None
    guard: Callable[["Run"], None] | None = None


class Run:
    """An open run directory; see `Run.start` and `Run.open`.

    Attributes
    ----------
    directory : Path
    settings : RunSettings
    progress : callable or None
        Called by long stages with (label, done, total).
    reused, built : list of str
        Names of the stages that `ensure` found as they were, and of those that it built.
    """

    def __init__(
        self, directory: Path, settings: RunSettings, *, progress: Progress | None = None
    ) -> None:
        self.directory = Path(directory)
        self.settings = settings
        self.progress = progress
        self.reused: list[str] = []
        self.built: list[str] = []
        self._kept: dict[str, tuple[Any, Any]] = {}

    @classmethod
    def start(
        cls, directory: Path, settings: RunSettings, *, progress: Progress | None = None
    ) -> "Run":
        """Create the run directory, or open it again with these settings.

        Parameters
        ----------
        directory : Path
            A new or empty directory, or that of a run; of a run that exists, only stages that
            depend on a changed setting will be redone.
        settings : RunSettings
            Kept in `run.json`.
        progress : callable, optional
            Called by long stages with (label, done, total).

        Returns
        -------
        Run

        Raises
        ------
        InputError
            The directory holds files but is no run's.

        Examples
        --------
        >>> run = Run.start(folder / "run", RunSettings("synthetic"))
        >>> run.directory.name, run.built
        ('run', [])
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
            write_document(path, "run", _written(settings))
        return cls(directory, settings, progress=progress)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        progress: Progress | None = None,
        check: Callable[["Run"], None] | None = None,
        **changes: Any,
    ) -> "Run":
        """Open an existing run, with some of its settings changed.

        Parameters
        ----------
        directory : Path
            The run's directory.
        progress : callable, optional
            Called by long stages with (label, done, total).
        check : callable, optional
            `check(run)` raises when the run must not have these settings; it is called before they
            are kept.
        **changes
            Settings by name; None leaves one as it is.

        Returns
        -------
        Run

        Raises
        ------
        ArtifactError
            The directory holds no run that can be read.
        InputError
            A changed setting has a value that is refused.

        Examples
        --------
        >>> run = Run.start(folder / "run", RunSettings("synthetic"))
        >>> Run.open(folder / "run", seeds=2).settings.seeds
        2
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
        if check is not None:
            check(cls(Path(directory), settings))
        return cls.start(Path(directory), settings, progress=progress)

    def output(self, stage: Stage | StageName) -> Path:
        """The complete directory of a stage.

        Parameters
        ----------
        stage : Stage or str
            It, or its name.

        Returns
        -------
        Path

        Raises
        ------
        ArtifactError
            The stage was never completed.
        """
        return self._output(_name(stage))

    def _output(self, name: str) -> Path:
        directory = within(self.directory, name, said_by="a stage's name")
        if not (directory / MANIFEST).is_file():
            raise ArtifactError(
                f"stage {name!r} of {self.directory} is not complete; build it first, `adc run"
                f" --run {self.directory}` builds every stage"
            )
        return directory

    def ranker(self, recipe: str) -> Path:
        """The complete stage that trained a recipe; raises as `output`."""
        return self._output(ranker_name(recipe))

    def facts(self, stage: Stage | StageName) -> dict[str, Any]:
        """The manifest of a complete stage."""
        return read_manifest(self.output(stage), verify=False)

    def kept(
        self, stage: Stage | StageName, read: Callable[[Path], T], *, changes_with: Any = None
    ) -> T:
        """What `read(directory)` makes of a complete stage, read once and kept while the stage, and
        `changes_with`, stay as they are.

        For values that do not change and that many questions need, such as the data set; large
        arrays that only one stage uses are better read there. A stage that is built again, in this
        process or another, is read again.
        """
        directory = self.output(stage)
        written = (directory / MANIFEST).stat()
        identity = (written.st_ino, written.st_mtime_ns, changes_with)
        name = f"{_name(stage)} {read.__qualname__}"
        if name not in self._kept or self._kept[name][0] != identity:
            self._kept.pop(name, None)  # two data sets at once may not fit the memory
            self._kept[name] = identity, read(directory)
        value: T = self._kept[name][1]
        return value

    def partial(self, stage: Stage) -> Path:
        """Where a stage may checkpoint; found again while its fingerprint stays the same, removed
        when the stage completes.
        """
        directory = self.directory / ".partial" / f"{stage.name}-{self.fingerprint(stage)[:16]}"
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def fingerprint(self, stage: Stage) -> str:
        """sha256 over what the stage is made of: the version of its code, its settings with the
        values of their recipes, and the files of the stages it reads.

        Raises ArtifactError when a stage that it reads is incomplete, or was itself made of what
        has changed since.
        """
        return hash_of(self._made_of(stage))

    def _made_of(self, stage: Stage) -> dict[str, Any]:
        sound: set[str] = set()
        for read in stage.reads:
            self._refuse_stale(read, sound)
            if changed := self._other_recipe(read):
                raise self._stale(read, changed)
        return {
            "stage": stage.name,
            "code": stage.version,
            "settings": {name: getattr(self.settings, name) for name in stage.settings},
            "recipe": self._recipe(stage),
            "reads": {read.name: self._identity(read.name) for read in stage.reads},
        }

    def _recipe(self, stage: Stage) -> Any:
        """What the names in the settings stand for, in the form that a manifest gives back."""
        return None if stage.recipe is None else json.loads(json_text(stage.recipe(self.settings)))

    def _other_recipe(self, stage: Stage) -> list[str]:
        """Does a name among the settings, itself unchanged, stand for other values than it did?"""
        made_of = self.facts(stage)["made_of"]
        same = (
            "recipe" not in made_of
            or self._other_settings(made_of)
            or made_of["recipe"] == self._recipe(stage)
        )
        return [] if same else [f"the defaults of stage {stage.name!r}"]

    def is_current(self, stage: Stage) -> bool:
        """Whether the stage is complete, and nothing that it was made of has changed."""
        if not (self.directory / stage.name / MANIFEST).is_file():
            return False
        try:
            return is_same(self.facts(stage).get("made_of") or {}, self._made_of(stage))
        except ArtifactError:
            return False

    def differences(self, stage: Stage) -> list[str]:
        """In what the complete stages that this one is made of, itself included, differ from what
        would be built now: settings by name, code, defaults of recipes. Stages that are absent do
        not differ.
        """
        found = []
        for read in stage.reads:
            found += self.differences(read)
        if (self.directory / stage.name / MANIFEST).is_file():
            made_of = self.facts(stage)["made_of"]
            found += self._other_settings(made_of) + _other_code(stage, made_of)
            found += self._other_recipe(stage)
        return list(dict.fromkeys(found))

    def _other_settings(self, made_of: Mapping[str, Any]) -> list[str]:
        return [
            name
            for name, value in made_of["settings"].items()
            if getattr(self.settings, name, None) != value
        ]

    def identity(self, stage: Stage | StageName) -> str | None:
        """What tells a stage's present files and origin from others; None where it is absent."""
        complete = (self.directory / _name(stage) / MANIFEST).is_file()
        return self._identity(_name(stage)) if complete else None

    def _identity(self, name: str) -> str:
        manifest = read_manifest(self._output(name), verify=False)
        return hash_of([manifest["made_of"], manifest["files"]])

    def _refuse_stale(self, stage: Stage, sound: set[str]) -> None:
        """A single stage must not go on from one that an `adc run` would redo first. sound: stages
        that were looked at; many read the same."""
        if stage.name in sound:
            return
        made_of = self.facts(stage)["made_of"]
        changed = self._other_settings(made_of)
        changed += [
            name for name, identity in made_of["reads"].items() if self._identity(name) != identity
        ]
        changed += _other_code(stage, made_of)
        if changed:
            raise self._stale(stage, changed)
        for read in stage.reads:
            self._refuse_stale(read, sound)
        sound.add(stage.name)

    def _stale(self, stage: Stage, changed: list[str]) -> ArtifactError:
        return ArtifactError(
            f"stage {stage.name!r} of {self.directory} is out of date: {', '.join(changed)} changed"
            f" since; build it again first, `adc run --run {self.directory}` builds every stage"
        )

    def ensure(self, stage: Stage) -> dict[str, Any]:
        """Build the stage, or reuse it when nothing it was made
        from has changed; returns its manifest.
        """
        with self.lock():
            return self._ensure(stage)

    def _ensure(self, stage: Stage) -> dict[str, Any]:
        made_of = self._made_of(stage)
        target = self.directory / stage.name

        def is_current(there: Mapping[str, Any]) -> bool:
            if is_same(there.get("made_of") or {}, made_of):
                return bool(there["outside"] == _described(stage, self))
            if stage.guard is not None:
                stage.guard(self)
            return False

        def build(directory: Path) -> dict[str, Any]:
            began = time.monotonic()
            facts = stage.build(self, directory)
            seconds = time.monotonic() - began
            return {
                "stage": stage.name,
                "outside": _described(stage, self),
                "seconds": round(seconds, 2),
                "peak_memory_bytes": peak_memory(),
                "facts": facts,
            }

        built = ensure_directory(target, made_of, build, is_current=is_current)
        manifest = read_manifest(target, verify=False)
        if not built:
            log.info("stage=%s reused=true seconds_saved=%.1f", stage.name, manifest["seconds"])
            self.reused.append(stage.name)
            return manifest
        for partial in (self.directory / ".partial").glob(f"{stage.name}-*"):
            shutil.rmtree(partial, ignore_errors=True)
        self.built.append(stage.name)
        log.info("stage=%s seconds=%.1f", stage.name, manifest["seconds"])
        return manifest

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Two processes that build in one run would sweep each other's half-made stages away. The
        system drops the lock of a killed one.
        """
        with file_lock(self.directory / ".lock") as taken:
            if not taken:
                raise InputError(
                    f"another process is building stages in {self.directory}; wait for it, or give"
                    " another run directory"
                )
            yield

    def record(self, event: str, **facts: Any) -> None:
        """Append one line to `events.jsonl`: what happened to this run, and when."""
        line = json.dumps(
            {"time": datetime.now(UTC).isoformat(), "event": event, **facts}, default=str
        )
        append_line(self.directory / "events.jsonl", redacted(line))


def ranker_name(recipe: str) -> str:
    """The name of the stage that trains a recipe: `training` builds it, promotions read it."""
    return f"ranker_{recipe}"


def _name(stage: Stage | StageName) -> str:
    return stage if isinstance(stage, str) else stage.name


def _other_code(stage: Stage, made_of: Mapping[str, Any]) -> list[str]:
    return [] if made_of.get("code", 1) == stage.version else [f"the code of stage {stage.name!r}"]


def _holds(path: Path, settings: RunSettings) -> bool:
    """Does a run.json say these settings? Raises ArtifactError when it is of a newer format."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(document, dict) and unnumbered("run", document, of=path) == json.loads(
        json_text(_written(settings))
    )


def _written(settings: RunSettings) -> dict[str, Any]:
    """What run.json holds: what older versions do not know, only where it is set."""
    unset = {"refresh": None, "one_round": False, "device": "cpu"}
    return {k: v for k, v in asdict(settings).items() if k not in unset or v != unset[k]}


def _described(stage: Stage, run: Run) -> Any:
    """What `outside` says, in the form that a manifest gives back."""
    return None if stage.outside is None else json.loads(json_text(stage.outside(run)))


def peak_memory() -> int:
    """Peak resident bytes of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
