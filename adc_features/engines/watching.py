"""Progress of work that other processes do, by the files that they finish. Reads: a folder. Writes:
nothing.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from adc_features.engines.parts import Part
from adc_features.engines.places import Place
from adc_features.errors import AdcError

EVERY = 2.0
"""Seconds between two looks."""


@contextmanager
def watching(
    into: str, parts: Sequence[Part], told: Callable[[int], None], *, every: float = EVERY
) -> Iterator[None]:
    """While the block runs, tell the rows of each part whose file appeared; at its end, of all that
    have one.
    """
    place, waiting, ended = Place(into), {part.name: part.rows for part in parts}, threading.Event()

    def look() -> None:
        for info in place.listed():
            if rows := waiting.pop(os.path.basename(info.path), 0):
                told(rows)

    def watch() -> None:
        while not ended.wait(every):
            with suppress(AdcError, OSError):  # a store that does not answer: at the next look
                look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    look()
