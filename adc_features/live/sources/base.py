"""What a source of events is, and the loop that reads it. Reads: sources. Writes: commits of the
ledger.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from pydantic_core import from_json

from adc_features.errors import AdcError, ArtifactError, NotWrittenError
from adc_features.live.decisions import Position, Receipt
from adc_features.live.history import Histories
from adc_features.live.incoming import incoming

log = logging.getLogger(__name__)

_BEHIND_S = 1.0
"""Seconds until an online store that is behind is looked at again."""
LARGEST = 1 << 20
"""Bytes of one event at most, as of a request over HTTP."""
_SHOWN = 200
LONGEST_PAUSE = 30.0
"""Seconds between two attempts to reach a source, or to write, at most."""


class Delivery(NamedTuple):
    """Events of one partition of a source.

    events: JSON values, in order; position: where the source stands before and after them, None
    where it keeps that itself; size: bytes; token: what the source needs to be told.
    """

    events: Sequence[Any]
    position: Position | None
    size: int
    token: Any


def value_of(text: bytes) -> Any:
    """The JSON value of what a source holds, or its text where it is none: that is no event, and
    told so. Of what is larger than LARGEST only the beginning: neither is it parsed, nor kept.
    """
    if len(text) > LARGEST:
        return beginning(text, size=len(text))
    try:
        return from_json(text)
    except ValueError:
        return text.decode("utf-8", "replace").rstrip("\n")


def beginning(text: bytes, *, size: int) -> str:
    """What is told of an event that is larger than LARGEST."""
    return f"{text[:_SHOWN].decode('utf-8', 'replace')} ... ({size} bytes)"


class Source(Protocol):
    """Where events come from."""

    @property
    def name(self) -> str:
        """For messages, without passwords."""
        ...

    def start(self, positions: dict[str, str]) -> None:
        """Begin at the positions, partition -> position, up to which everything is durable.

        Raises ConnectionError when the source cannot be reached, ArtifactError when it no longer
        holds what comes after a position, or holds other events under it.
        """
        ...

    def read(self) -> Delivery | None:
        """The next events; None when there are none for the moment. Raises ConnectionError."""
        ...

    def done(self, delivery: Delivery) -> None:
        """Told when the events of a delivery are durable. Raises ConnectionError."""
        ...

    @property
    def ended(self) -> bool:
        """Whether there will never be more."""
        ...


class Totals:
    """What became of the events of a source since the process began."""

    def __init__(self) -> None:
        self.accepted = self.held = self.duplicates = self.refused = self.size = 0

    def add(self, receipt: Receipt, *, size: int) -> None:
        """Count one more receipt, of so many bytes."""
        self.size += size
        self.accepted += receipt.accepted
        self.held += receipt.held
        self.duplicates += receipt.duplicates
        self.refused += len(receipt.faults)

    def to_dict(self) -> dict[str, int]:
        """As JSON has them."""
        return {name: value for name, value in vars(self).items() if name != "size"}


def ingest(
    source: Source,
    histories: Histories,
    *,
    stream: str,
    totals: Totals | None = None,
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[Totals], None] = lambda totals: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Totals:
    """Read a source until it ends or `stopped` says so.

    Each delivery is committed before the source is told and the next one is read: what is in
    flight is bounded by one delivery. A source that is away is waited for, as is a disk that is
    full: nothing is acknowledged meanwhile.

    Parameters
    ----------
    source : Source
    histories : Histories
        Of the live directory; written every `history_after` and at the end. While an online store
        that is not ours is too far behind, nothing is read.
    stream : str
        The stream of the events.
    totals : Totals, optional
        Counted on; by default from nothing.
    stopped : callable
        Asked between deliveries.
    progress : callable
        Told after each delivery.
    sleep : callable
        Waits some seconds.

    Returns
    -------
    Totals

    Raises
    ------
    ArtifactError
        The source holds other events than those that were read before.
    """
    ledger, totals, pause = histories.ledger, totals or Totals(), 0.0
    declared, started = ledger.streams[stream], False
    written = time.monotonic()
    try:
        while not stopped() and not source.ended:
            if _behind(histories):
                sleep(_BEHIND_S)
                continue
            try:
                if not started:
                    source.start(_positions(ledger.facts()["positions"], source.name))
                    started = True
                delivery = source.read()
                if delivery is not None:
                    request = incoming(declared, delivery.events, size=delivery.size)
                    (receipt,) = ledger.commit([request], position=delivery.position)
                    totals.add(receipt, size=delivery.size)
                    progress(totals)
                    source.done(delivery)
                elif ledger.due():
                    ledger.commit([])
            except (ConnectionError, NotWrittenError) as error:
                # read on from what is durable; what comes twice counts once
                started, pause = False, min(LONGEST_PAUSE, 2 * pause or 0.5)
                log.warning("stage=ingest source=%s error=%s retry_s=%s", source.name, error, pause)
                sleep(pause)
                continue
            pause = 0.0
            if time.monotonic() - written > ledger.settings.history_after.total_seconds():
                _write(histories)
                written = time.monotonic()
    finally:
        _behind(histories)
        _write(histories)
    return totals


def _behind(histories: Histories) -> bool:
    """Take rows to online stores that are not ours; whether too much waits for them."""
    if histories.elsewhere is None:
        return False
    histories.elsewhere.follow()
    return histories.elsewhere.overdue


def _positions(stored: dict[str, str], source: str) -> dict[str, str]:
    prefix = f"{source}/"
    return {k[len(prefix) :]: v for k, v in stored.items() if k.startswith(prefix)}


def _write(histories: Histories) -> None:
    try:
        histories.drain()
    except (AdcError, OSError) as error:  # what waits goes on waiting in the live directory
        log.error("stage=history error=%s", error)


def refuse_restart(name: str, partition: str, position: str, found: str) -> ArtifactError:
    """The error for a source that began anew."""
    return ArtifactError(
        f"{name}, partition {partition or 'only one'}, was read to {position}, and now {found}: it"
        " was restarted or trimmed. Nothing was read, since events would be missing or counted in"
        " another order; when that is as it should be, give the source another name"
    )
