"""`Decoder`: packets of bytes, however these are cut.

A packet is refused for its size as soon as its length is known, so a peer cannot make us hold more than the limit. PUBLISH is read in the
loop itself: most packets are one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from muxwsgi_iot.mqtt.packets import (
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Ping,
    Publish,
    Suback,
    Subscribe,
    SubscribeTo,
    Unsuback,
    Unsubscribe,
    Version,
    Will,
)
from muxwsgi_iot.mqtt.properties import NO_PROPERTIES, Kind, Properties, Property, read_properties
from muxwsgi_iot.mqtt.reasons import MQTTError, Reason
from muxwsgi_iot.mqtt.text import check_filter, check_topic, decode_text

__all__ = ["Decoder", "Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """max_connect_size  bytes of the first packet, which comes before the peer has logged in
    max_packet_size   bytes of each other packet, its header included
    max_topic_size    bytes of a topic name or filter
    max_levels        levels of a topic name or filter
    max_properties    properties of one packet, of its will counted separately
    """

    max_connect_size: int = 1 << 17
    max_packet_size: int = 1 << 20
    max_topic_size: int = 4096
    max_levels: int = 64
    max_properties: int = 64


#: The low four bits of the first byte [MQTT-2.1.3-1]. PUBLISH has flags there.
_FLAGS = {Kind.PUBREL: 2, Kind.SUBSCRIBE: 2, Kind.UNSUBSCRIBE: 2}

_PINGREQ, _PINGRESP = 12, 13

#: Reasons that each packet may have, for those with one reason.
_ACK_REASONS = frozenset({0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
_RELEASE_REASONS = frozenset({0, 0x92})
_DISCONNECT_REASONS = frozenset({0, 4, *range(0x80, 0x84), 0x87, 0x89, 0x8B, *range(0x8D, 0x91), *range(0x93, 0xA3)})
_AUTH_REASONS = frozenset({0, 0x18, 0x19})
_REASONS = {Kind.PUBACK: _ACK_REASONS, Kind.PUBREC: _ACK_REASONS, Kind.PUBREL: _RELEASE_REASONS, Kind.PUBCOMP: _RELEASE_REASONS}


class Decoder:
    """One direction of one connection. A server's reads CONNECT first, and has the version from it; a client's is given the version."""

    __slots__ = ("_held", "_levels", "_limits", "_missing", "_topics", "_topic_size", "version")

    def __init__(self, limits: Limits | None = None, version: Version | None = None) -> None:
        self._limits = limits or Limits()
        self._levels = self._limits.max_levels
        self._topic_size = self._limits.max_topic_size
        self._held: list[bytes] = []
        self._missing = 0  # bytes without which the packet in `_held` is not complete
        self._topics: dict[bytes, str] = {}  # topics that were checked already, for devices repeat theirs
        self.version = version

    def feed(self, data: bytes) -> Iterator[Packet]:
        """The packets that `data` completes. Raises `MQTTError` after those before the fault; nothing may be fed then."""
        if self._held:
            self._held.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._held)
            self._held = []
        at, end = 0, len(data)
        while at < end:
            begin = at
            first = data[at]
            # The length: a variable byte integer, of which a part may be missing.
            length = shift = 0
            at += 1
            while True:
                if at == end:
                    self._hold(data, begin, 1)
                    return
                byte = data[at]
                at += 1
                length |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 21:
                    raise MQTTError(Reason.MALFORMED_PACKET, "the length of a packet has more than four bytes")
            if byte == 0 and shift:
                raise MQTTError(Reason.MALFORMED_PACKET, "the length of a packet has more bytes than it needs")
            stop = at + length
            if self.version is None and first != 0x10:
                raise MQTTError(Reason.PROTOCOL_ERROR, "the first packet is not CONNECT")  # [MQTT-3.1.0-1]
            most = self._limits.max_connect_size if self.version is None else self._limits.max_packet_size
            if stop - begin > most:
                raise MQTTError(Reason.PACKET_TOO_LARGE, f"a packet of {stop - begin} bytes; {most} are allowed")
            if stop > end:
                self._hold(data, begin, stop - end)
                return
            if first & 0xF0 == 0x30:
                yield self._publish(first, data, at, stop)
            else:
                yield self._other(first, data[at:stop])
            at = stop

    def _hold(self, data: bytes, begin: int, missing: int) -> None:
        self._held = [data[begin:] if begin else data]
        self._missing = missing

    def _publish(self, first: int, data: bytes, at: int, stop: int) -> Publish:
        qos = first >> 1 & 3
        dup = bool(first & 8)
        if qos == 3:
            raise MQTTError(Reason.MALFORMED_PACKET, "PUBLISH with QoS 3")  # [MQTT-3.3.1-4]
        if dup and not qos:
            raise MQTTError(Reason.MALFORMED_PACKET, "PUBLISH with DUP and QoS 0")  # [MQTT-3.3.1-2]
        if at + 2 > stop:
            raise MQTTError(Reason.MALFORMED_PACKET, "PUBLISH is cut short")
        size = data[at] << 8 | data[at + 1]
        at += 2
        behind = at + size
        if behind > stop:
            raise MQTTError(Reason.MALFORMED_PACKET, "PUBLISH is cut short")
        raw = data[at:behind]
        topic = self._topics.get(raw)
        if topic is None:
            topic = self._new_topic(raw)
        at = behind
        packet_id = 0
        if qos:
            if at + 2 > stop:
                raise MQTTError(Reason.MALFORMED_PACKET, "PUBLISH is cut short")
            packet_id = data[at] << 8 | data[at + 1]
            at += 2
            if not packet_id:
                raise MQTTError(Reason.PROTOCOL_ERROR, "a packet identifier is 0")  # [MQTT-2.2.1-3]
        properties: Properties = NO_PROPERTIES
        if self.version == 5:
            if at < stop and data[at] == 0:
                at += 1
            else:
                properties, at = read_properties(data, at, stop, Kind.PUBLISH, self._limits.max_properties)
                self._check_response_topic(properties)
        if not size and Property.TOPIC_ALIAS not in properties:
            raise MQTTError(Reason.PROTOCOL_ERROR, "PUBLISH has neither a topic nor an alias")  # section 3.3.2.1
        return Publish(topic, data[at:stop], qos, bool(first & 1), dup, packet_id, properties)

    def _new_topic(self, raw: bytes) -> str:
        if not raw:
            if self.version != 5:
                raise MQTTError(Reason.TOPIC_NAME_INVALID, "a topic name is empty")
            return ""
        topic = self._text_of(raw)
        check_topic(topic, self._levels)
        if len(self._topics) < 8:
            self._topics[raw] = topic
        return topic

    def _text_of(self, raw: bytes) -> str:
        if len(raw) > self._topic_size:
            raise MQTTError(Reason.TOPIC_NAME_INVALID, f"a topic has more than {self._topic_size} bytes")
        return decode_text(raw)

    def _other(self, first: int, body: bytes) -> Packet:
        number = first >> 4
        if number == 0 or (number == 15 and self.version != 5):
            raise MQTTError(Reason.MALFORMED_PACKET, f"there is no packet type {number}")
        if number in (_PINGREQ, _PINGRESP):
            if first & 0x0F or body:
                raise MQTTError(Reason.MALFORMED_PACKET, "PINGREQ or PINGRESP with flags or a body")
            return Ping(number == _PINGRESP)
        kind = Kind(number)
        if first & 0x0F != _FLAGS.get(kind, 0):
            raise MQTTError(Reason.MALFORMED_PACKET, f"{kind.name} with reserved flags")
        reader = _Reader(body, self._limits.max_properties)
        packet = self._read(kind, reader)
        if reader.at != len(body):
            raise MQTTError(Reason.MALFORMED_PACKET, f"{kind.name} has bytes behind its end")
        return packet

    def _read(self, kind: Kind, reader: "_Reader") -> Packet:
        v5 = self.version == 5
        match kind:
            case Kind.CONNECT:
                if self.version is not None:
                    raise MQTTError(Reason.PROTOCOL_ERROR, "a second CONNECT")  # [MQTT-3.1.0-2]
                return self._connect(reader)
            case Kind.CONNACK:
                flags = reader.number(1)
                if flags > 1:
                    raise MQTTError(Reason.MALFORMED_PACKET, "CONNACK with reserved flags")  # [MQTT-3.2.2-1]
                code = reader.number(1)
                return Connack(bool(flags), code, reader.properties(kind) if v5 else NO_PROPERTIES)
            case Kind.PUBACK | Kind.PUBREC | Kind.PUBREL | Kind.PUBCOMP:
                packet_id = reader.packet_id()
                if not v5 or reader.left == 0:
                    return Ack(kind, packet_id)
                return Ack(kind, packet_id, *reader.reasoned(kind, _REASONS[kind]))
            case Kind.SUBSCRIBE:
                packet_id, properties = reader.packet_id(), reader.properties(kind) if v5 else NO_PROPERTIES
                asked: list[SubscribeTo] = []
                while reader.left or not asked:  # one at least [MQTT-3.8.3-2]
                    asked.append(self._subscribe_to(reader, v5))
                return Subscribe(packet_id, tuple(asked), properties)
            case Kind.UNSUBSCRIBE:
                packet_id, properties = reader.packet_id(), reader.properties(kind) if v5 else NO_PROPERTIES
                filters: list[str] = []
                while reader.left or not filters:  # one at least [MQTT-3.10.3-2]
                    filters.append(self._filter(reader))
                return Unsubscribe(packet_id, tuple(filters), properties)
            case Kind.SUBACK:
                packet_id, properties = reader.packet_id(), reader.properties(kind) if v5 else NO_PROPERTIES
                return Suback(packet_id, tuple(reader.rest()), properties)
            case Kind.UNSUBACK:
                packet_id, properties = reader.packet_id(), reader.properties(kind) if v5 else NO_PROPERTIES
                return Unsuback(packet_id, tuple(reader.rest()) if v5 else (), properties)
            case Kind.DISCONNECT:
                return Disconnect(*reader.reasoned(kind, _DISCONNECT_REASONS)) if v5 and reader.left else Disconnect()
            case _:
                return Auth(*reader.reasoned(kind, _AUTH_REASONS)) if reader.left else Auth()

    def _subscribe_to(self, reader: "_Reader", v5: bool) -> SubscribeTo:
        topic_filter = self._filter(reader)
        options = reader.number(1)
        qos, handling = options & 3, options >> 4 & 3
        if qos == 3 or options & (0xC0 if v5 else 0xFC):
            raise MQTTError(Reason.MALFORMED_PACKET, "SUBSCRIBE with reserved options")  # [MQTT-3.8.3-5]
        if handling == 3:
            raise MQTTError(Reason.PROTOCOL_ERROR, "SUBSCRIBE with Retain Handling 3")
        no_local = bool(options & 4)
        if no_local and topic_filter.startswith("$share/"):
            raise MQTTError(Reason.PROTOCOL_ERROR, "a shared subscription with No Local")  # [MQTT-3.8.3-4]
        return SubscribeTo(topic_filter, qos, no_local, bool(options & 8), handling)

    def _filter(self, reader: "_Reader") -> str:
        text = self._text_of(reader.binary())
        check_filter(text, self._levels)
        return text

    def _check_response_topic(self, properties: Properties) -> None:
        topic = properties.get(Property.RESPONSE_TOPIC)
        if topic is not None:
            check_topic(topic, self._levels)  # [MQTT-3.3.2-14]

    def _connect(self, reader: "_Reader") -> Connect:
        name, level = reader.text(), reader.number(1)
        if name != "MQTT" or level not in (4, 5):  # [MQTT-3.1.2-1], [MQTT-3.1.2-2]
            raise MQTTError(Reason.UNSUPPORTED_PROTOCOL_VERSION, f"protocol {name[:10]!r} level {level}")
        self.version = version = Version(level)
        v5 = version is Version.V5
        flags, keep_alive = reader.number(1), reader.number(2)
        will_qos = flags >> 3 & 3
        if flags & 1 or will_qos == 3 or (not flags & 4 and flags & 0x38):  # [MQTT-3.1.2-3], -11 to -15
            raise MQTTError(Reason.MALFORMED_PACKET, "CONNECT with reserved or contradictory flags")
        if not v5 and flags & 0x40 and not flags & 0x80:
            raise MQTTError(Reason.MALFORMED_PACKET, "CONNECT with a password and no user name")  # [MQTT-3.1.2-22] of 3.1.1
        properties = reader.properties(Kind.CONNECT) if v5 else NO_PROPERTIES
        if Property.AUTHENTICATION_DATA in properties and Property.AUTHENTICATION_METHOD not in properties:
            raise MQTTError(Reason.PROTOCOL_ERROR, "authentication data without a method")
        client_id = reader.text()
        will = None
        if flags & 4:
            will_properties = reader.properties(Kind.WILL) if v5 else NO_PROPERTIES
            self._check_response_topic(will_properties)
            topic = self._text_of(reader.binary())
            check_topic(topic, self._levels)
            will = Will(topic, reader.binary(), will_qos, bool(flags & 0x20), will_properties)
        username = reader.text() if flags & 0x80 else None
        password = reader.binary() if flags & 0x40 else None
        return Connect(client_id, version, bool(flags & 2), keep_alive, will, username, password, properties)


class _Reader:
    """The body of one packet, read from front to back."""

    __slots__ = ("at", "data", "most")

    def __init__(self, data: bytes, most: int) -> None:
        self.data = data
        self.at = 0
        self.most = most

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        at = self.at
        if at + count > len(self.data):
            raise MQTTError(Reason.MALFORMED_PACKET, "a packet ends too early")
        self.at = at + count
        return self.data[at : at + count]

    def rest(self) -> bytes:
        return self.take(self.left)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def packet_id(self) -> int:
        value = self.number(2)
        if not value:
            raise MQTTError(Reason.PROTOCOL_ERROR, "a packet identifier is 0")  # [MQTT-2.2.1-3]
        return value

    def binary(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        return decode_text(self.binary())

    def properties(self, kind: Kind) -> Properties:
        found, self.at = read_properties(self.data, self.at, len(self.data), kind, self.most)
        return found

    def reasoned(self, kind: Kind, allowed: frozenset[int]) -> tuple[Reason, Properties]:
        """A reason, and properties if there is more. Other reasons than these are malformed."""
        number = self.number(1)
        if number not in allowed:
            raise MQTTError(Reason.MALFORMED_PACKET, f"{kind.name} with reason {number:#04x}")
        return Reason(number), self.properties(kind) if self.left else NO_PROPERTIES
