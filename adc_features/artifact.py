"""Files and directories that are complete or invisible. Reads: files. Writes: files, and
directories with a manifest, moved into place last.

A reader that finds no `manifest.json` finds nothing; one that finds it may trust every file that it
names.
"""

import ctypes
import glob
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from adc_features.errors import ArtifactError, NewerFormatError
from adc_features.formats import (
    FORMATS,
    KEY,
    MANIFEST,
    kind_of,
    numbered,
    refuse_newer,
    refuse_newer_document,
    refuse_newer_inside,
)
from adc_features.redaction import redacted

log = logging.getLogger(__name__)

CHECK = "check"
"""Where a JSON document holds the CRC-32 of the rest of it."""
_HERE, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux's renameat2."""


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def json_text(value: Any) -> str:
    """Indented JSON; numpy scalars, times and paths become their plain forms, NaN becomes null,
    passwords in URLs are hidden.
    """
    return json.dumps(_plain(value), indent=2, sort_keys=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, str | Path):
        return redacted(str(value))
    return value.isoformat() if isinstance(value, datetime) else value


def write_json(path: Path, value: Any) -> None:
    """Write `json_text` of a value: a reader sees the old file or the new one."""
    write_atomically(path, json_text(value) + "\n")


def write_document(
    path: Path, kind: str, content: Mapping[str, Any], *, check: bool = False
) -> None:
    """Write a document with the format number of its kind and, under `check`, its CRC-32.

    Raises NewerFormatError, the file as it was, when a newer version wrote what stands there.
    """
    refuse_newer_document(path, kind)
    document = numbered(kind, content)
    write_json(path, with_check(document) if check else document)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a text (as UTF-8) or bytes: a reader sees the old file or the new one."""
    with fresh_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file of lines, and sync it to the disk. What a crash cut short before it
    ends first, on a line of its own.
    """
    with path.open("a+b") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def fresh_file(target: Path) -> Iterator[BinaryIO]:
    """A new file beside `target` to fill, which takes its place when the block ends well, synced to
    the disk first; removed when the block fails. A reader sees the old file or the new one.
    """
    target = Path(target)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Put the names in a directory on the disk: only then does a rename outlast a lost power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def within(place: Path, name: Any, *, said_by: str) -> Path:
    """`place / name` for a name that a file, a record or a person gave: refused unless it lies
    below `place`.

    name: relative, in its shortest form (no empty part, `.` or `..`). Symbolic links are followed:
    one that leads outside is refused, existing or not. said_by: where the name stands, for the
    message. Raises ArtifactError.
    """
    try:
        if not isinstance(name, str) or "\0" in name or not os.fsencode(name):
            raise ValueError("it is empty or no text")
        if (
            os.path.isabs(name)
            or ".." in name.split("/")
            or os.path.normpath(name) in (".", "..")
            or name != os.path.normpath(name)
        ):
            raise ValueError("it is absolute, or has an empty part, '.' or '..'")
        path = Path(place) / name
        path.exists()  # an error other than "there is none": too long, or links in a circle
        if not path.resolve().is_relative_to(Path(place).resolve()):
            raise ValueError(f"a symbolic link leads it to {path.resolve()}")
    except (ValueError, OSError, RuntimeError) as error:
        shown = repr(name) if len(repr(name)) <= 200 else f"{repr(name)[:200]}..."
        raise ArtifactError(
            f"{said_by} names {shown}, which is no path below {place} ({error}): the record was"
            " altered, or links were made by hand; restore it, or write it again with the command"
            " that made it"
        ) from error
    return path


def deletable(place: Path, name: Any, *, said_by: str) -> Path:
    """`within`, for a directory that will be deleted: no part of it below `place` is a symbolic
    link. Raises ArtifactError, naming the link.
    """
    path = within(place, name, said_by=said_by)
    for part in (path, *path.parents):
        if part == Path(place):
            return path
        if part.is_symlink():
            raise ArtifactError(
                f"{said_by} names {name!r} for deletion, but {part} is a symbolic link to"
                f" {os.readlink(part)}: nothing was deleted; put the directory itself there, or"
                " remove the link by hand"
            )
    raise AssertionError("a path within a place has it among its parents")


@contextmanager
def fresh_directory(target: Path) -> Iterator[Path]:
    """A new directory beside `target` to fill; renamed to `target` when the block ends well,
    removed when it fails.

    An existing `target` is replaced, on Linux in one step; one that holds what a newer version
    wrote is refused with NewerFormatError before the block runs. What a killed process left behind
    (`.target.*`) is swept on the next call.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    refuse_newer_inside(target)
    for stale in target.parent.glob(f".{glob.escape(target.name)}.*"):
        shutil.rmtree(stale, ignore_errors=True)
    aside = target.parent / f".{target.name}.{os.getpid()}"
    aside.mkdir()
    try:
        yield aside
        if not (target.exists() and _exchanged(aside, target)):
            if target.exists():
                target.replace(_replaced(target))
            aside.replace(target)
            shutil.rmtree(_replaced(target), ignore_errors=True)
    finally:
        recover(target)
        shutil.rmtree(aside, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two directories in one step, so that no reader and no kill meets a moment without
    `other`; False where the system cannot.
    """
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return swap(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def recover(target: Path) -> None:
    """Put back the directory that a `fresh_directory`, killed between its two renames, had moved
    away; else do nothing.
    """
    if _replaced(target).exists() and not target.exists():
        _replaced(target).replace(target)


def _replaced(target: Path) -> Path:
    return target.parent / f".{target.name}.old"


def seal(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest, last: `facts` plus the sha256 of every other file in the directory,
    manifests of artefacts inside it included.

    facts: `kind` names what the directory is, default a stage of a run or a comparison; the
    format number of that kind stands first.
    """
    manifest = directory / MANIFEST
    files = {
        str(p.relative_to(directory)): file_hash(p)
        for p in sorted(directory.rglob("*"))
        if p.is_file() and p != manifest
    }
    write_json(manifest, sealed(facts, files))


def sealed(facts: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The manifest of a directory. files: name -> sha256 of every other file in it."""
    return with_check({KEY: FORMATS[kind_of(facts)], **facts, "files": files})


def with_check(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with a CRC-32 of its own content under `check`: no other file knows what a
    manifest should say.
    """
    return {**document, CHECK: _crc(document)}


def checked(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """The document without its `check`; one that an older version wrote has none. Raises
    ArtifactError when its content is not what was written.
    """
    content = {name: value for name, value in document.items() if name != CHECK}
    if CHECK in document and document[CHECK] != _crc(content):
        raise ArtifactError(
            f"{path} is not what was written (its check says {str(document[CHECK])[:20]!r}); the"
            " file was altered, write the artefact again"
        )
    return content


def _crc(document: Mapping[str, Any]) -> str:
    plain = json.dumps(json.loads(json_text(document)), sort_keys=True)
    return f"{zlib.crc32(plain.encode()):08x}"


def require_files(directory: Path, manifest: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise ArtifactError unless the manifest names these: what it does not name, nobody checks."""
    if missing := sorted(set(names) - set(manifest["files"])):
        raise ArtifactError(
            f"{Path(directory) / MANIFEST} does not name"
            f" {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}, which this kind"
            " of directory has: it was altered, write the artefact again"
        )


def read_manifest(
    directory: Path, *, verify: bool = True, requires: Iterable[str] = ()
) -> dict[str, Any]:
    """The manifest of a complete directory.

    requires: files that a directory of this kind has. Raises ArtifactError naming the file when the
    manifest is absent, of a newer format or does not name a required one or, under `verify`, a file
    is missing or altered, or none is named though there are some.
    """
    path = Path(directory) / MANIFEST
    if not os.path.isfile(path):  # unlike Path.is_file, also false for a name that is too long
        raise ArtifactError(
            f"{directory} has no {MANIFEST}: it does not exist or was never completed; run the"
            " stage that writes it again"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not even UTF-8
        raise ArtifactError(
            f"{path} is not JSON ({error}); the file was altered, write the artefact again"
        ) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ArtifactError(
            f"{path} lists no files: it was not written by this library; give a directory that was"
        )
    refuse_newer(manifest.get(KEY), reads=FORMATS[kind_of(manifest)], of=path)
    require_files(directory, manifest, requires)
    if (
        verify
        and not manifest["files"]
        and any(p.is_file() and p != path for p in Path(directory).rglob("*"))
    ):
        raise ArtifactError(
            f"{path} names none of the files beside it: it was altered, write the artefact again"
        )
    for name, wanted in manifest["files"].items() if verify else ():
        file = within(Path(directory), name, said_by=str(path))
        if not file.is_file():
            raise ArtifactError(
                f"{file} is missing, its manifest names it; write the artefact again"
            )
        if (got := file_hash(file)) != wanted:
            raise ArtifactError(
                f"{file} has sha256 {got[:12]}..., its manifest says {wanted[:12]}...; the file was"
                " altered, write the artefact again"
            )
    return checked(manifest, path)  # last: what is wrong with a file says more


def ensure_directory(
    target: Path,
    made_of: Mapping[str, Any],
    fill: Callable[[Path], Mapping[str, Any] | None],
    *,
    is_current: Callable[[Mapping[str, Any]], bool] | None = None,
) -> bool:
    """Make a directory, unless it is there already: complete, unaltered and made of the same.

    made_of: everything that the content follows from, as JSON knows it. fill: writes the files into
    a new directory, and returns what the manifest says besides `made_of`. is_current: says of the
    manifest that is there whether it is made of the same, default by an equal `made_of`. Returns
    whether it was filled; killed at any point, the directory is as it was.

    Raises NewerFormatError when a newer version wrote what is there.
    """
    made_of = json.loads(json_text(made_of))
    there = finished(target)
    if there is not None and (
        there.get("made_of") == made_of if is_current is None else is_current(there)
    ):
        return False
    with fresh_directory(target) as aside:
        said = fill(aside)
        seal(aside, {"made_of": made_of, **(said or {})})
    return True


def is_made_of(directory: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether the directory is complete, unaltered and made of this. Raises as `finished`."""
    there = finished(directory)
    return there is not None and there.get("made_of") == json.loads(json_text(made_of))


def finished(directory: Path) -> dict[str, Any] | None:
    """The manifest of a complete and unaltered directory, else None; one that was altered is
    logged.

    Raises NewerFormatError when a newer version wrote it: it may not be made again.
    """
    if not (directory / MANIFEST).is_file():
        return None
    try:
        return read_manifest(directory)
    except NewerFormatError:
        raise
    except ArtifactError as error:
        log.warning("artifact=%s rebuilt=true reason=%s", directory, error)
        return None
