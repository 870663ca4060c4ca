"""Sealed directories of an object store, copied to this machine before they are read: what is
mapped into memory has to lie on its disks. Reads: directories elsewhere. Writes: verified copies.

A copy is made once for each content, whole or not at all, and checked against the sha256 of every
file that the manifest names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from adc_features.artifact import MANIFEST, fresh_directory, read_manifest, within
from adc_features.errors import ArtifactError
from adc_features.uris import is_remote, local_path, open_uri, reaching

CACHE = "ADC_CACHE"
"""The environment variable that names the directory of copies."""
_BLOCK = 1 << 22


def pulled_directory(uri: str | Path, *, cache: Path | None = None) -> Path:
    """A sealed directory on this machine: itself where it is local, else a verified copy.

    Parameters
    ----------
    uri : str or Path
        What `seal` completed: a generation, a publication.
    cache : Path, optional
        Where copies are kept; by default $ADC_CACHE, else `adc-features` in the user's cache
        directory. Copies that are not in use may be deleted at any time.

    Raises
    ------
    ArtifactError
        There is no manifest, or a file is missing or not what the manifest says.
    StorageError
        The object store refuses the credentials, or does not answer.
    """
    if not is_remote(uri):
        return local_path(uri)
    filesystem, root = open_uri(uri)
    root = root.rstrip("/")
    with reaching(uri):
        manifest = manifest_there(filesystem, root, uri)
    version = hashlib.sha256(f"{uri}\n".encode() + manifest).hexdigest()[:24]
    target = (cache or _cache()) / version / root.rpartition("/")[2]
    if (target / MANIFEST).is_file() and (target / MANIFEST).read_bytes() == manifest:
        return target
    copy_sealed(filesystem, root, manifest, target, of=uri)
    return target


def copy_sealed(
    filesystem: Any, root: str, manifest: bytes, target: Path, *, of: str | Path
) -> None:
    """Copy a sealed directory of another file system: `target` is replaced when the copy is whole
    and verified, and stays as it is otherwise.

    manifest: as it stands there. of: the address, for messages. Raises as `pulled_directory`.
    """
    with fresh_directory(target) as aside:
        for name in _files(manifest, of):
            file = within(aside, name, said_by=f"{of}/{MANIFEST}")
            file.parent.mkdir(parents=True, exist_ok=True)
            with reaching(f"{of}/{name}"):
                _copy(filesystem, f"{root}/{name}", file, of)
        (aside / MANIFEST).write_bytes(manifest)
        try:
            read_manifest(aside)
        except ArtifactError as error:
            raise ArtifactError(
                f"{of} was altered, or replaced while it was copied ({error}); try again, or write"
                " it again with the command that made it"
            ) from error


def _cache() -> Path:
    if place := os.environ.get(CACHE):
        return Path(place)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adc-features"


def manifest_there(filesystem: Any, root: str, uri: str | Path) -> bytes:
    """The manifest of a directory elsewhere. Raises ArtifactError where there is none."""
    try:
        with filesystem.open_input_stream(f"{root}/{MANIFEST}") as file:
            return bytes(file.read())
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{uri} has no {MANIFEST}: it does not exist or was never completed; correct the"
            " address, or copy the directory again, its manifest last"
        ) from error


def _files(manifest: bytes, uri: str | Path) -> list[str]:
    try:
        return list(json.loads(manifest)["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{uri}/{MANIFEST} lists no files ({error!r}): it was altered, or is of something else"
        ) from error


def _copy(filesystem: Any, path: str, file: Path, uri: str | Path) -> None:
    try:
        with filesystem.open_input_stream(path) as source, file.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{uri} lacks {path.rpartition('/')[2]}, which its manifest names; it is not complete,"
            " copy it again"
        ) from error
