"""Files and folders on this machine or on an object store. Reads, writes: files.

A place is named by a path or a URI (`s3://bucket/folder`), so that every worker opens it anew.
"""

import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from adc_features.errors import ArtifactError
from adc_features.uris import Opened, is_remote, open_uri, reaching

BLOCK = 1 << 20


@dataclass(frozen=True)
class Place:
    """A file or folder. uri: a path of this machine, or an address that `open_uri` knows."""

    uri: str

    @classmethod
    def named(cls, text: str) -> "Place":
        """What a person named; a relative path becomes absolute, as a worker may run elsewhere."""
        return cls(text if "://" in text else os.path.abspath(text))

    @cached_property
    def _opened(self) -> Opened:
        opened = open_uri(self.uri)
        return opened if is_remote(self.uri) else opened._replace(path=os.path.abspath(opened.path))

    @property
    def files(self) -> fs.FileSystem:
        """The file system."""
        return self._opened[0]

    @property
    def path(self) -> str:
        """Where it lies there."""
        return self._opened[1]

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return not is_remote(self.uri)

    def below(self, name: str) -> "Place":
        """A file or folder below it, as a place of its own."""
        where, mark, query = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return Place(f"{where.rstrip('/')}/{name}{mark}{query}")

    def of(self, name: str) -> str:
        """The path of a file below it."""
        return f"{self.path.rstrip('/')}/{name}" if name else self.path

    def info(self, name: str = "") -> fs.FileInfo:
        """What stands there. Raises ArtifactError when the store does not answer."""
        with self._answering(name):
            return self.files.get_file_info(self.of(name))

    def listed(self, name: str = "", *, recursive: bool = False) -> list[fs.FileInfo]:
        """The files of a folder below it, by name; none where there is no folder."""
        selector = fs.FileSelector(self.of(name), allow_not_found=True, recursive=recursive)
        with self._answering(name):
            found = self.files.get_file_info(selector)
        return sorted((f for f in found if f.type == fs.FileType.File), key=lambda f: f.path)

    def read(self, name: str) -> bytes:
        """A whole file. Raises ArtifactError when it cannot be read."""
        with self._answering(name), self.files.open_input_stream(self.of(name)) as file:
            return file.read()

    def json(self, name: str) -> Any:
        """A JSON file; None where there is none. Raises ArtifactError when it is damaged."""
        if self.info(name).type != fs.FileType.File:
            return None
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise ArtifactError(
                f"{self.of(name)} is not JSON ({error}): it was altered; delete {self.uri} and"
                " write it again"
            ) from error

    @contextmanager
    def writing(self, name: str) -> Iterator[pa.NativeFile]:
        """A file to fill, which gets its name when the block ends well; a reader sees it whole or
        not at all, however many workers write it.
        """
        target = self.of(name)
        aside = f"{target}.{uuid.uuid4().hex}.tmp"
        with self._answering(name):
            self.files.create_dir(os.path.dirname(target), recursive=True)
            try:
                with self.files.open_output_stream(aside) as file:
                    yield file
                self.files.move(aside, target)
            except BaseException:
                if self.files.get_file_info(aside).type == fs.FileType.File:
                    self.files.delete_file(aside)
                raise

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file."""
        with self.writing(name) as file:
            file.write(content)

    def move(self, name: str, to: str) -> None:
        """Give a file below it another name, whose folder is made; again, it is no error."""
        with self._answering(name):
            if self.files.get_file_info(self.of(name)).type != fs.FileType.File:
                return
            self.files.create_dir(os.path.dirname(self.of(to)), recursive=True)
            self.files.move(self.of(name), self.of(to))

    def take(self, folder: Path, name: str) -> None:
        """Copy the files of a folder of this machine to a folder below."""
        for file in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
            self.write(f"{name}/{file.relative_to(folder).as_posix()}", file.read_bytes())

    def delete(self, name: str) -> None:
        """Delete a folder below it, if there is one."""
        if self.info(name).type == fs.FileType.Directory:
            with self._answering(name):
                self.files.delete_dir(self.of(name))

    def hashes(self, folder: str) -> dict[str, str]:
        """Name below this place -> sha256 (hex), of every file in a folder."""
        found = {}
        for file in self.listed(folder, recursive=True):
            digest = sha256()
            with self._answering(folder), self.files.open_input_stream(file.path) as stream:
                while block := stream.read(BLOCK):
                    digest.update(block)
            found[os.path.relpath(file.path, self.path)] = digest.hexdigest()
        return found

    def local_copy(self, name: str) -> Path:
        """A file or folder as one of this machine: itself, or a copy that lasts as long as this
        process.
        """
        if self.is_local:
            return Path(self.of(name))
        into = _copies() / uuid.uuid4().hex
        into.mkdir()
        one = self.info(name)
        if one.type == fs.FileType.NotFound:
            raise ArtifactError(
                f"{self.uri} holds no {name!r}; it must be a place that every worker can read"
            )
        files = self.listed(name, recursive=True) if one.type == fs.FileType.Directory else [one]
        for file in files:
            below = os.path.relpath(file.path, os.path.dirname(self.of(name)))
            target = into / below
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._answering(name):
                fs.copy_files(
                    file.path,
                    str(target),
                    source_filesystem=self.files,
                    destination_filesystem=fs.LocalFileSystem(),
                )
        return into / os.path.basename(self.of(name))

    @contextmanager
    def _answering(self, name: str) -> Iterator[None]:
        try:
            with reaching(self.uri):
                yield
        except OSError as error:
            if self.is_local and getattr(error, "errno", None) is not None:
                raise  # the system's own words, of a full disk or a missing right
            raise ArtifactError(
                f"{self.uri}: {name or 'it'} cannot be read or written ({error}); check that it is"
                " there"
            ) from error


_KEPT: list[tempfile.TemporaryDirectory] = []


def _copies() -> Path:
    """A folder that is deleted when this process ends."""
    if not _KEPT:
        _KEPT.append(tempfile.TemporaryDirectory(prefix="adc-"))
    return Path(_KEPT[0].name)
