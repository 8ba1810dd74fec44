"""`LocalSubscriber`: a function of the application that gets messages."""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent

from muxwsgi_iot.counters import Counters
from muxwsgi_iot.link import Link
from muxwsgi_iot.message import Message

__all__ = ["LocalSubscriber"]

log = logging.getLogger(__name__)

#: Messages that wait for the function. Further ones are dropped and counted.
_WAITING = 1000


class LocalSubscriber:
    """Calls the function in a greenlet, which lives while messages wait. What the function raises is logged, and costs no other message."""

    client_id = ""
    is_online = True
    link: Link | None = None

    def __init__(
        self, callback: Callable[[Message], Any], counters: Counters, may_read: Callable[[str], bool] | None, forget: Callable[[], None]
    ) -> None:
        self._callback = callback
        self.counters = counters
        self._allowed = may_read
        self._forget = forget
        self._waiting: deque[Message] = deque()
        self._worker: gevent.Greenlet[[], None] | None = None
        self._closed = False

    def may_read(self, topic: str) -> bool:
        return self._allowed is None or self._allowed(topic)

    def deliver(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...], now: float) -> None:
        if self._closed:
            return
        if len(self._waiting) >= _WAITING:
            self.counters.drop("callback", getattr(self._callback, "__qualname__", ""))
            return
        self._waiting.append(message)
        if self._worker is None:
            self._worker = gevent.spawn(self._work)

    def close(self) -> None:
        """No message comes any more. Idempotent."""
        if not self._closed:
            self._closed = True
            self._waiting.clear()
            self._forget()

    def _work(self) -> None:
        try:
            while self._waiting:
                message = self._waiting.popleft()
                try:
                    self._callback(message)
                except Exception:
                    log.exception("a function that has subscribed failed with a message of %r", message.topic)
        finally:
            self._worker = None
