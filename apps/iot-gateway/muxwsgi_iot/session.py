"""A client's session: its subscriptions, and the messages that are under way to it (section 4.1). It may outlive connections.

A message of QoS 1 or 2 has one of these places, from which it only goes on to the next:

waiting    it came while the client was away, or while as many as the client takes were under way
resend     it was under way when the connection ended, and is sent again, before what waits [MQTT-4.4.0-1]
inflight   it has a packet identifier. With QoS 2, PUBREC turns `is_released` on, and PUBCOMP ends it
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from muxwsgi_iot.counters import Counters
from muxwsgi_iot.link import Link
from muxwsgi_iot.message import Message, repeated
from muxwsgi_iot.mqtt import NO_PROPERTIES, Ack, Reason, Will
from muxwsgi_iot.mqtt.encoder import encode_ack
from muxwsgi_iot.mqtt.properties import Kind
from muxwsgi_iot.options import Options

__all__ = ["Session", "Subscriber", "Subscription"]


@dataclass(slots=True)
class Subscription:
    """`identifier` is 0 without one."""

    filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    identifier: int = 0


class Subscriber(Protocol):
    """What can be subscribed: a session, or a function of the application. Hashed by identity."""

    client_id: str
    counters: Counters
    link: Link | None

    @property
    def is_online(self) -> bool:
        """Whether a message would go out now. A shared subscription prefers these members."""

    def may_read(self, topic: str) -> bool:
        """By the access list."""

    def deliver(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...], now: float) -> None:
        """Neither waits nor raises."""


@dataclass(slots=True)
class _Outgoing:
    message: Message
    qos: int
    retain: bool
    identifiers: tuple[int, ...]
    is_released: bool = False


class Session:
    """client_id, username   of the client; the name is None for an anonymous one
    link                  the connection; None while the client is away
    expiry                seconds that the session outlives its connection, infinite for ever
    incoming              packet identifiers of QoS 2 messages that came and are not released
    will, will_delay      what is published if the connection ends without a DISCONNECT, and the seconds until then
    """

    __slots__ = (
        "_inflight",
        "_next_id",
        "_options",
        "_resend",
        "_waiting",
        "_waiting_size",
        "client_id",
        "connected_at",
        "counters",
        "expiry",
        "incoming",
        "link",
        "may_read",
        "may_write",
        "receive_maximum",
        "subscriptions",
        "username",
        "will",
        "will_delay",
    )

    def __init__(self, client_id: str, options: Options, counters: Counters) -> None:
        self.client_id = client_id
        self.username: str | None = None
        self.link: Link | None = None
        self.connected_at = 0.0
        self.expiry = 0.0
        self.subscriptions: dict[str, Subscription] = {}
        self.incoming: set[int] = set()
        self.will: Will | None = None
        self.will_delay = 0
        self.receive_maximum = options.max_inflight_messages
        self.counters = counters
        self.may_read: Callable[[str], bool] = _all
        self.may_write: Callable[[str], bool] = _all
        self._options = options
        self._waiting: deque[_Outgoing] = deque()
        self._waiting_size = 0
        self._resend: deque[int] = deque()
        self._inflight: dict[int, _Outgoing] = {}
        self._next_id = 0

    def __repr__(self) -> str:
        return f"<Session {self.client_id!r}>"

    @property
    def is_online(self) -> bool:
        return self.link is not None

    @property
    def queued(self) -> int:
        """Messages of QoS 1 and 2 that the client has not confirmed."""
        return len(self._waiting) + len(self._inflight)

    # To the client

    def deliver(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...], now: float) -> None:
        """Send a message, or let it wait. What is over a limit is dropped and counted."""
        link = self.link
        if qos == 0:
            if link is not None:
                self._send_0(link, message, retain, identifiers, now)
            return
        outgoing = _Outgoing(message, qos, retain, identifiers)
        if link is not None and not self._waiting and self._can_send(link):
            self._send(link, outgoing, now)
            return
        if len(self._waiting) >= self._options.max_queued_messages or (
            self._waiting and self._waiting_size + message.size > self._options.max_queued_bytes
        ):
            self.counters.drop("queue", self.client_id)
            return
        self._waiting.append(outgoing)
        self._waiting_size += message.size

    def _can_send(self, link: Link) -> bool:
        return not self._resend and len(self._inflight) < self.receive_maximum and link.behind <= link.max_behind  # [MQTT-3.3.4-7]

    def _send_0(self, link: Link, message: Message, retain: bool, identifiers: tuple[int, ...], now: float) -> None:
        alias, by_alias = link.alias_of(message.topic) if link.uses_aliases else (0, False)
        data = message.parts(link.version, 0, retain, identifiers, now, alias, by_alias)[0]
        if len(data) > link.max_packet:
            self.counters.drop("too-large", self.client_id)
        elif not link.has_room(len(data)):
            self.counters.drop("slow", self.client_id)
        else:
            if alias and not by_alias:
                link.alias_was_sent(message.topic, alias)
            link.put(data)
            self.counters.sent += 1

    def _send(self, link: Link, outgoing: _Outgoing, now: float) -> None:
        """Send a message for the first time, under a new packet identifier."""
        message = outgoing.message
        if message.expires_at <= now:  # [MQTT-3.3.2-5]
            self.counters.expired += 1
            return
        packet_id = self._next_id
        while True:
            packet_id = packet_id % 65535 + 1
            if packet_id not in self._inflight:  # [MQTT-2.2.1-4]; there are fewer than 65535
                break
        if self._write(link, packet_id, outgoing, now, again=False):
            self._next_id = packet_id
            self._inflight[packet_id] = outgoing

    def _write(self, link: Link, packet_id: int, outgoing: _Outgoing, now: float, *, again: bool) -> bool:
        message = outgoing.message
        alias, by_alias = link.alias_of(message.topic) if link.uses_aliases else (0, False)
        before, after = message.parts(link.version, outgoing.qos, outgoing.retain, outgoing.identifiers, now, alias, by_alias)
        if len(before) + len(after) + 2 > link.max_packet:  # as if it had been sent [MQTT-3.1.2-25]
            self.counters.drop("too-large", self.client_id)
            return False
        if alias and not by_alias:
            link.alias_was_sent(message.topic, alias)
        link.put(b"%b%c%c%b" % (repeated(before) if again else before, packet_id >> 8, packet_id & 0xFF, after))
        self.counters.sent += 1
        return True

    def pump(self, now: float) -> None:
        """Send what waits, as far as the client takes it."""
        link = self.link
        if link is None:
            return
        under_way = len(self._inflight) - len(self._resend)
        while self._resend and under_way < self.receive_maximum:
            packet_id = self._resend.popleft()
            outgoing = self._inflight.get(packet_id)
            if outgoing is None:
                continue
            under_way += 1
            if outgoing.is_released:
                link.put(encode_ack(Kind.PUBREL, packet_id, Reason.SUCCESS, NO_PROPERTIES, link.is_v5))
            elif not self._write(link, packet_id, outgoing, now, again=True):
                del self._inflight[packet_id]
        while self._waiting and self._can_send(link):
            outgoing = self._waiting.popleft()
            self._waiting_size -= outgoing.message.size
            self._send(link, outgoing, now)

    # From the client

    def confirmed(self, ack: Ack, now: float) -> None:
        """PUBACK, PUBREC or PUBCOMP has come."""
        link = self.link
        if link is None:
            return
        outgoing = self._inflight.get(ack.packet_id)
        failed = ack.reason >= 0x80
        match ack.kind:
            case Kind.PUBACK if outgoing is not None and outgoing.qos == 1:
                del self._inflight[ack.packet_id]
            case Kind.PUBREC if outgoing is not None and outgoing.qos == 2:
                if failed and not outgoing.is_released:  # [MQTT-4.3.3-4]: the message is refused
                    del self._inflight[ack.packet_id]
                else:
                    outgoing.is_released = True
                    outgoing.message = _GONE  # its memory is free
                    link.put(encode_ack(Kind.PUBREL, ack.packet_id, Reason.SUCCESS, NO_PROPERTIES, link.is_v5))
            case Kind.PUBREC if not failed:
                link.put(encode_ack(Kind.PUBREL, ack.packet_id, Reason.PACKET_IDENTIFIER_NOT_FOUND, NO_PROPERTIES, link.is_v5))
            case Kind.PUBCOMP if outgoing is not None and outgoing.is_released:
                del self._inflight[ack.packet_id]
        self.pump(now)

    # Connections

    def resume(self, link: Link, receive_maximum: int, now: float) -> None:
        """The client is here again. What it has not confirmed is sent again, in the order of the first time [MQTT-4.6.0-1]."""
        self.link = link
        self.receive_maximum = min(receive_maximum, self._options.max_inflight_messages)
        self._resend = deque(self._inflight)
        self.pump(now)

    def drop_expired(self, now: float) -> None:
        """Drop messages that wait and have expired."""
        kept = [outgoing for outgoing in self._waiting if outgoing.message.expires_at > now]
        if len(kept) < len(self._waiting):
            self.counters.expired += len(self._waiting) - len(kept)
            self._waiting = deque(kept)
            self._waiting_size = sum(outgoing.message.size for outgoing in kept)


#: In place of a message of which only the packet identifier is still needed.
_GONE = Message("", b"", 2)


def _all(topic: str) -> bool:
    return True
