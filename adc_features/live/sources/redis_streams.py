"""Events from a Redis stream, read by a consumer group. Reads: a Redis server. Writes:
acknowledgements there.

An entry holds one event: its fields are those of the event, as plain text, or its one field `event`
is the whole object in JSON. Entries that this consumer, or one that died, was given and
did not acknowledge come first; ids of events absorb what comes twice. Redis keeps an entry that was
acknowledged by the producer only as safely as its own `appendfsync` does. Never trim a stream below
the oldest pending entry of the group.
"""

from __future__ import annotations

from typing import Any

from adc_features.aggregates.declaration import EventStream
from adc_features.extras import extra_modules
from adc_features.live.sources.base import LARGEST, Delivery, beginning, value_of
from adc_features.redaction import redacted

AT_ONCE = 500
WAIT_MS = 200
"""How long one read waits for events."""


class RedisStream:
    """A consumer of one stream.

    Parameters
    ----------
    url : str
        `redis://[:password@]host:port/db`.
    key : str
        Of the stream in Redis.
    stream : EventStream
        Says which fields are numbers.
    group, consumer : str
        Each entry goes to one consumer of a group.
    idle_ms : int
        Entries that another consumer was given this long ago, and did not acknowledge, are taken
        over; longer than the slowest commit.
    """

    ended = False

    def __init__(
        self,
        url: str,
        key: str,
        stream: EventStream,
        *,
        group: str = "adc-features",
        consumer: str = "1",
        idle_ms: int = 60_000,
    ) -> None:
        with extra_modules():
            import redis

        self._redis: Any = redis
        self._text = {
            *stream.attributes,
            *(k for k, kind in stream.keys.items() if kind == "string"),
        }
        self._url, self._key, self._group, self._consumer = url, key, group, consumer
        self._idle_ms, self._own, self._claim = idle_ms, "0", "0-0"
        self._client: Any = None

    @property
    def name(self) -> str:
        return f"{redacted(self._url)}#{self._key}"

    def start(self, positions: dict[str, str]) -> None:
        with self._reached():
            self._client = self._redis.Redis.from_url(self._url, socket_timeout=5)
            try:
                self._client.xgroup_create(self._key, self._group, id="0", mkstream=True)
            except self._redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise ConnectionError(str(error)) from error
        self._own, self._claim = "0", "0-0"

    def read(self) -> Delivery | None:
        with self._reached():
            entries = self._pending() or self._claimed() or self._new()
        if not entries:
            return None
        return Delivery(
            [self._event(fields) for _, fields in entries],
            None,
            sum(_size(fields) for _, fields in entries),
            [entry for entry, _ in entries],
        )

    def done(self, delivery: Delivery) -> None:
        with self._reached():
            self._client.xack(self._key, self._group, *delivery.token)

    def _pending(self) -> list[Any]:
        """What this consumer was given before and did not acknowledge; asked for until none is."""
        if self._own == ">":
            return []
        entries = self._read(self._own)
        self._own = entries[-1][0] if entries else ">"
        return [entry for entry in entries if entry[1]]  # deleted entries have no fields

    def _claimed(self) -> list[Any]:
        self._claim, entries, *_ = self._client.xautoclaim(
            self._key,
            self._group,
            self._consumer,
            min_idle_time=self._idle_ms,
            start_id=self._claim,
            count=AT_ONCE,
        )
        return [entry for entry in entries if entry[1]]

    def _new(self) -> list[Any]:
        return self._read(">")

    def _read(self, after: str) -> list[Any]:
        answer = self._client.xreadgroup(
            self._group, self._consumer, {self._key: after}, count=AT_ONCE, block=WAIT_MS
        )
        return answer[0][1] if answer else []

    def _event(self, fields: dict[bytes, bytes]) -> Any:
        if list(fields) == [b"event"]:
            return value_of(fields[b"event"])
        if (size := _size(fields)) > LARGEST:
            return beginning(next(iter(fields.values())), size=size)
        named = {name.decode("utf-8", "replace"): value for name, value in fields.items()}
        return {
            name: value.decode("utf-8", "replace") if name in self._text else value_of(value)
            for name, value in named.items()
        }

    def _reached(self) -> Any:
        return _reached(self._redis)


def _size(fields: dict[bytes, bytes]) -> int:
    """Bytes of an entry."""
    return sum(len(name) + len(value) for name, value in fields.items())


class _reached:
    """Redis' errors as ConnectionError: it is away, or not as it was, and is asked again later."""

    def __init__(self, redis: Any) -> None:
        self._errors = redis.RedisError

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, self._errors):
            raise ConnectionError(redacted(str(error))) from error
