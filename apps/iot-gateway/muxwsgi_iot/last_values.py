"""`LastValues`: the last message of each topic, for the page and the API. Retained or not."""

import time
from collections import OrderedDict

from muxwsgi_iot.counters import Counters
from muxwsgi_iot.link import Link
from muxwsgi_iot.message import Message

__all__ = ["LastValues"]

#: Topics and bytes that are kept. The topic that was published to the longest ago goes first.
_TOPICS = 10_000
_BYTES = 16 << 20


class LastValues:
    """A subscriber. Noting a value takes no greenlet, so it costs a publisher next to nothing."""

    client_id = ""
    is_online = True
    link: Link | None = None

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self._values: OrderedDict[str, tuple[Message, float]] = OrderedDict()
        self._size = 0

    def may_read(self, topic: str) -> bool:
        return True

    def deliver(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...], now: float) -> None:
        self._forget(message.topic)
        if message.payload:  # an empty payload removes a retained message
            self._values[message.topic] = (message, time.time())
            self._size += message.size
            while len(self._values) > _TOPICS or self._size > _BYTES:
                self._forget(next(iter(self._values)))

    def _forget(self, topic: str) -> None:
        old = self._values.pop(topic, None)
        if old is not None:
            self._size -= old[0].size

    def all(self) -> list[tuple[Message, float]]:
        """With the time of each, by topic."""
        return [self._values[topic] for topic in sorted(self._values)]
