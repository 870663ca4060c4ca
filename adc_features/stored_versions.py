"""Versions of a sealed directory, kept at one address: published there by one, pulled by each host
that serves. Reads, writes: `<address>/versions.json`, `<address>/versions/<version>/`; directories.

A version is named by the sha256 of its manifest, which holds that of every file. It is written
whole before `versions.json` names it, and a host's directory is replaced in one step, so a reader
finds one version or the other.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adc_features.artifact import (
    MANIFEST,
    checked,
    finished,
    json_text,
    read_manifest,
    with_check,
    write_atomically,
)
from adc_features.errors import ArtifactError, InputError
from adc_features.formats import numbered, unnumbered
from adc_features.one_writer import only_writer
from adc_features.pulled import copy_sealed, manifest_there
from adc_features.uris import below, is_remote, open_uri, reaching

KEPT = 3
"""Versions that stay at an address by default: the newest, and two to go back to."""
_LIST = "versions.json"
_KIND = "stored_versions"
_BLOCK = 1 << 22
_VERSION = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Stored:
    """What a push or a pull left. version: now current there; versions: all that are kept at the
    address, newest first. changed: whether anything was copied.
    """

    version: str
    versions: tuple[str, ...]
    changed: bool


def push(directory: Path, uri: str, *, keep: int = KEPT) -> Stored:
    """Put a sealed directory at an address, as its newest version.

    Parameters
    ----------
    directory : Path
        Complete and unaltered: a publication of packed snapshots, a generation.
    uri : str
        The address of its versions.
    keep : int
        Versions that stay there, this one included; at least 1. Older ones are deleted.

    Raises
    ------
    ArtifactError
        The directory is not complete, or a file of it was altered: nothing was written.
    InputError
        `keep` is below 1, or another process pushes there.
    StorageError
        The object store refuses the credentials, or does not answer.
    """
    if keep < 1:
        raise InputError(f"keep is {keep}; expected at least 1, the version that is pushed")
    files = [*read_manifest(directory)["files"], MANIFEST]  # the manifest last
    version = _version((directory / MANIFEST).read_bytes())
    with only_writer(uri):
        known = _listed(uri)
        changed = version not in known
        if changed:
            filesystem, root = open_uri(_place(uri, version))
            with reaching(uri):
                for name in files:
                    _put(filesystem, f"{root}/{name}", directory / name)
        versions = [version, *(one for one in known if one != version)]
        _list(uri, versions[:keep])
        for old in versions[keep:]:
            filesystem, root = open_uri(_place(uri, old))
            with reaching(uri):
                filesystem.delete_dir(root)
    return Stored(version, tuple(versions[:keep]), changed)


def pull(uri: str, directory: Path, *, version: str | None = None) -> Stored:
    """Bring a directory to a version that is kept at an address, by default the newest.

    Every file is copied beside it and checked; then the directory is replaced in one step. One that
    is complete and of that version already stays as it is.

    Parameters
    ----------
    uri : str
        Where `push` put versions.
    directory : Path
        On this machine; replaced.
    version : str, optional
        An older one, to go back to.

    Raises
    ------
    ArtifactError
        Nothing was pushed there, or what is there was altered: the directory is as it was.
    InputError
        The version is not kept there.
    StorageError
        The object store refuses the credentials, or does not answer.
    """
    versions = _listed(uri)
    if not versions:
        raise ArtifactError(f"{uri} holds no versions; push a directory there, or correct it")
    wanted = version or versions[0]
    if wanted not in versions:
        raise InputError(
            f"{uri} keeps no version {wanted!r}; it keeps {', '.join(versions)}, newest first"
        )
    there = finished(directory) is not None
    if there and _version((directory / MANIFEST).read_bytes()) == wanted:
        return Stored(wanted, tuple(versions), changed=False)
    place = _place(uri, wanted)
    filesystem, root = open_uri(place)
    with reaching(uri):
        manifest = manifest_there(filesystem, root, place)
    if _version(manifest) != wanted:
        raise ArtifactError(
            f"{place}/{MANIFEST} is not of that version: it was altered, push again"
        )
    copy_sealed(filesystem, root, manifest, directory, of=place)
    return Stored(wanted, tuple(versions), changed=True)


def _version(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()[:16]


def _place(uri: str, version: str) -> str:
    return str(below(uri, f"versions/{version}"))


def _listed(uri: str) -> list[str]:
    """The versions at an address, newest first; none before the first push."""
    place = below(uri, _LIST)
    filesystem, path = open_uri(place)
    with reaching(place):
        try:
            with filesystem.open_input_stream(path) as file:
                text = file.read()
        except FileNotFoundError:
            return []
    try:
        versions = unnumbered(_KIND, checked(json.loads(text), Path(path)), of=place)["versions"]
        if wrong := [one for one in versions if not _VERSION.fullmatch(one)]:
            raise ValueError(f"{wrong[0][:40]!r} is no version")  # it would be a place to delete
        return list(versions)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{place} lists no versions that can be read ({error!r}): it was altered; delete it,"
            " and push again"
        ) from error


def _list(uri: str, versions: Sequence[str]) -> None:
    place = below(uri, _LIST)
    text = json_text(with_check(numbered(_KIND, {"versions": list(versions)}))) + "\n"
    filesystem, path = open_uri(place)
    if not is_remote(place):
        write_atomically(Path(path), text)
        return
    with reaching(place), filesystem.open_output_stream(path) as file:  # visible when it is closed
        file.write(text.encode())


def _put(filesystem: Any, path: str, file: Path) -> None:
    if filesystem.type_name == "local":  # elsewhere directories are parts of names
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    with file.open("rb") as source, filesystem.open_output_stream(path) as target:
        shutil.copyfileobj(source, target, _BLOCK)
