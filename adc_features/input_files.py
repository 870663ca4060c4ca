"""Whether the files that a work reads stay what they were while it reads them. Reads: sizes, times
of change and etags of files. Writes: nothing.

A file of plain Parquet has no versions. One that is replaced or written anew while many tasks read
it gives some of them old rows and others new ones, and no reader of one part can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from adc_features.errors import ArtifactError

T = TypeVar("T")


class FileState(NamedTuple):
    """What a file is told by. changed: when it was written last, nanoseconds since 1970, 0 where
    that is not told. etag: of the object store, empty where it gives none.
    """

    size: int
    changed: int
    etag: str = ""


@dataclass(frozen=True)
class InputFiles:
    """Files as they were before the work. states: path -> what it was. look: the same now; it is
    pickled with what reads the files.
    """

    states: Mapping[str, FileState]
    look: Callable[[], Mapping[str, FileState]]

    @classmethod
    def seen(cls, look: Callable[[], Mapping[str, FileState]]) -> InputFiles:
        """The files as they are now. look: tells their states, now and later."""
        return cls(look(), look)

    @classmethod
    def at(cls, paths: Iterable[str | Path], filesystem: Any = None) -> InputFiles:
        """Files of a file system of Arrow, by default this machine's, as they are now."""
        return cls.seen(partial(_states_at, [str(path) for path in paths], filesystem))

    def check(self) -> None:
        """Raise ArtifactError, naming the first file that is not what it was."""
        now = self.look()
        for path in sorted({*self.states, *now}):
            before, after = self.states.get(path), now.get(path)
            if before != after:
                raise ArtifactError(
                    f"{path} changed while it was read ({_said(before, 'not there')} before,"
                    f" {_said(after, 'gone')} now), so nothing was made of it; run it again when"
                    " no one writes there"
                )


def _states_at(paths: list[str], filesystem: Any) -> dict[str, FileState]:
    from pyarrow import fs

    where = filesystem or fs.LocalFileSystem()
    return states_of(where.get_file_info(paths), where)


@contextmanager
def unchanged(inputs: Sequence[InputFiles]) -> Iterator[None]:
    """Around what reads them, up to where its result is seen: raise ArtifactError when a file
    changed, also in the place of the error that it led to.
    """
    try:
        yield
    except Exception as error:
        try:
            check_all(inputs)
        except ArtifactError as changed:
            raise changed from error
        raise
    check_all(inputs)


def all_of(found: Iterable[T], inputs: Sequence[InputFiles]) -> Iterator[T]:
    """What is read of the files, one after the other; raises at the end as `unchanged` does."""
    with unchanged(inputs):
        yield from found


def check_all(inputs: Sequence[InputFiles]) -> None:
    """Raise ArtifactError, naming the first file that is not what it was."""
    for one in inputs:
        one.check()


def states_of(found: Iterable[Any], filesystem: Any) -> dict[str, FileState]:
    """The states of what a file system of Arrow lists, by path: of files alone."""
    from pyarrow import fs

    return {
        info.path: FileState(info.size or 0, info.mtime_ns or 0, _etag(filesystem, info.path))
        for info in found
        if info.type == fs.FileType.File
    }


def _etag(filesystem: Any, path: str) -> str:
    """Of a file system of fsspec that tells one. Arrow's own do not."""
    handler: Any = getattr(filesystem, "handler", None)
    if not hasattr(handler, "fs"):
        return ""
    told = {str(name).lower(): value for name, value in handler.fs.info(path).items()}
    return str(told.get("etag") or told.get("md5hash") or "")


def _said(state: FileState | None, absent: str) -> str:
    if state is None:
        return absent
    at = datetime.fromtimestamp(state.changed / 1e9, UTC).isoformat() if state.changed else ""
    return f"{state.size} bytes" + (f" of {at}" if at else "")
