"""Events from a file of JSON lines. Reads: the file. Writes: nothing."""

from __future__ import annotations

import hashlib
import logging
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from adc_features.errors import InputError
from adc_features.live.decisions import Position
from adc_features.live.sources.base import Delivery, refuse_restart, value_of

log = logging.getLogger(__name__)
EVENTS_AT_ONCE = 500


class Lines:
    """A file with one event a line.

    Its position is the number of bytes that were read and a hash of the last line among them, so
    that the command, started again, goes on where it was, and refuses a file that was exchanged.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(
                f"there is no file {path}; give one with an event in JSON on each line"
            )
        self._path, self._ended = path, False
        self._file: BinaryIO | None = None
        self._position: str | None = None

    @property
    def name(self) -> str:
        return f"file:{self._path.resolve()}"

    @property
    def ended(self) -> bool:
        return self._ended

    def start(self, positions: dict[str, str]) -> None:
        self._position = positions.get("")
        if self._file is not None:
            self._file.close()
        file = self._file = self._path.open("rb")
        if self._position is None:
            return
        at, length, digest = self._position.split(":")
        file.seek(int(at) - int(length))
        line = file.read(int(length))
        if _digest(line) != digest:
            file.close()
            raise refuse_restart(self.name, "", f"byte {at}", "other bytes stand there")

    def read(self) -> Delivery | None:
        file = self._opened()
        start = file.tell()
        lines = list(islice(iter(file.readline, b""), EVENTS_AT_ONCE))
        if lines and not _is_whole(lines[-1]):
            log.warning("stage=ingest source=%s: the last line is not finished", self.name)
            lines.pop()  # whoever writes the file is at it: read when it is whole
            file.seek(start + sum(map(len, lines)))
        if not lines:
            self._ended = True
            file.close()
            return None
        last = lines[-1]
        after = f"{file.tell()}:{len(last)}:{_digest(last)}"
        position = Position(self.name, "", self._position, after)
        events = [value_of(line) for line in lines if line.strip()]
        return Delivery(events, position, sum(map(len, lines)), after)

    def done(self, delivery: Delivery) -> None:
        self._position = delivery.token

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise RuntimeError("start comes first")
        return self._file


def _is_whole(line: bytes) -> bool:
    """Whether nothing of a line is still to be written: the last one may lack its end."""
    return line.endswith(b"\n") or isinstance(value_of(line), dict)


def _digest(line: bytes) -> str:
    return hashlib.blake2b(line, digest_size=8).hexdigest()
