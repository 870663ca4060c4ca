"""Events from a Kafka topic. Reads: brokers. Writes: offsets there, for displays of lag only.

Where the topic was read to is kept in the live directory, in the transaction that counts the
events; the broker's own offsets decide nothing. Partitions are assigned, not balanced: one process
reads a topic.
"""

from __future__ import annotations

from typing import Any

from adc_features.extras import extra_modules
from adc_features.live.decisions import Position
from adc_features.live.sources.base import Delivery, refuse_restart, value_of

AT_ONCE = 500
WAIT_S = 0.2
"""How long one read waits for events, seconds."""


class KafkaTopic:
    """The reader of one topic.

    Parameters
    ----------
    servers : str
        `host:port`, several with commas.
    topic : str
    group : str
        Under which the broker shows how far it is read.
    client : optional
        The module that talks to brokers; by default `confluent_kafka`.
    """

    ended = False

    def __init__(
        self, servers: str, topic: str, *, group: str = "adc-features", client: Any = None
    ) -> None:
        if client is None:
            with extra_modules():
                import confluent_kafka

            client = confluent_kafka
        self._kafka, self._servers, self._topic, self._group = client, servers, topic, group
        self._consumer: Any = None
        self._stored: dict[str, str] = {}
        self._waiting: list[Any] = []

    @property
    def name(self) -> str:
        return f"kafka:{self._servers}#{self._topic}"

    def start(self, positions: dict[str, str]) -> None:
        if self._consumer is not None:
            self._consumer.close()
        self._waiting = []
        self._consumer = self._kafka.Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": self._group,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
            }
        )
        try:
            known = self._consumer.list_topics(self._topic, timeout=10).topics[self._topic]
            if known.error or not known.partitions:
                raise ConnectionError(f"there is no topic {self._topic}")
            assigned = []
            for partition in known.partitions:
                low, high = self._consumer.get_watermark_offsets(
                    self._kafka.TopicPartition(self._topic, partition), timeout=10
                )
                at = int(positions.get(str(partition), low))
                if not low <= at <= high:
                    found = f"the broker holds {low} to {high}"
                    raise refuse_restart(self.name, str(partition), str(at), found)
                assigned.append(self._kafka.TopicPartition(self._topic, partition, at))
            self._consumer.assign(assigned)
        except self._kafka.KafkaException as error:
            raise ConnectionError(str(error)) from error
        self._stored = dict(positions)

    def read(self) -> Delivery | None:
        try:
            self._waiting += self._consumer.consume(AT_ONCE - len(self._waiting), WAIT_S)
        except self._kafka.KafkaException as error:
            raise ConnectionError(str(error)) from error
        for message in self._waiting:
            if message.error():
                self._waiting = []
                raise ConnectionError(str(message.error()))
        if not self._waiting:
            return None
        partition = self._waiting[0].partition()
        mine = [m for m in self._waiting if m.partition() == partition]
        self._waiting = [m for m in self._waiting if m.partition() != partition]
        after = mine[-1].offset() + 1
        values = [message.value() or b"" for message in mine]
        position = Position(self.name, str(partition), self._stored.get(str(partition)), str(after))
        return Delivery([value_of(v) for v in values], position, sum(map(len, values)), mine[-1])

    def done(self, delivery: Delivery) -> None:
        if delivery.position is not None:
            self._stored[delivery.position.partition] = delivery.position.after
        try:
            self._consumer.commit(message=delivery.token, asynchronous=True)
        except self._kafka.KafkaException as error:
            raise ConnectionError(str(error)) from error
