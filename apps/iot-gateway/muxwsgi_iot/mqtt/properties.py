"""Properties of version 5 (section 2.2.2): a table, and the code that reads and writes by it."""

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from muxwsgi_iot.mqtt.reasons import MQTTError, Reason
from muxwsgi_iot.mqtt.text import decode_text

__all__ = ["NO_PROPERTIES", "Kind", "Properties", "Property", "encode_properties", "encode_varint", "read_properties", "read_varint"]


class Property(IntEnum):
    """Identifiers."""

    PAYLOAD_FORMAT_INDICATOR = 0x01
    MESSAGE_EXPIRY_INTERVAL = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_IDENTIFIER = 0x0B
    SESSION_EXPIRY_INTERVAL = 0x11
    ASSIGNED_CLIENT_IDENTIFIER = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    REQUEST_PROBLEM_INFORMATION = 0x17
    WILL_DELAY_INTERVAL = 0x18
    REQUEST_RESPONSE_INFORMATION = 0x19
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER_PROPERTY = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_SUBSCRIPTION_AVAILABLE = 0x28
    SUBSCRIPTION_IDENTIFIER_AVAILABLE = 0x29
    SHARED_SUBSCRIPTION_AVAILABLE = 0x2A


#: The value is an int, a str, bytes, a list of ints (subscription identifiers) or a list of pairs of str (user properties).
Properties = Mapping[Property, Any]


class _NoProperties(dict[Property, Any]):
    """Empty, and stays so. It has a hash, which a default of a dataclass needs."""

    def __hash__(self) -> int:  # type: ignore[override]
        return 0

    def __setitem__(self, key: Property, value: object) -> None:
        raise TypeError("NO_PROPERTIES stays empty")


NO_PROPERTIES: Properties = _NoProperties()


class Kind(IntEnum):
    """What has properties: the packet types, and the will in CONNECT."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    DISCONNECT = 14
    AUTH = 15
    WILL = 16


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A variable byte integer, and the position behind it. It has four bytes at most, and no more than it needs [MQTT-1.5.5-1]."""
    value = shift = 0
    for position in range(at, min(at + 4, end)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise MQTTError(Reason.MALFORMED_PACKET, "a variable byte integer is longer than it needs to be")
            return value, position + 1
        shift += 7
    raise MQTTError(Reason.MALFORMED_PACKET, "a variable byte integer does not end")


def encode_varint(value: int) -> bytes:
    """Raises `ValueError` above 268,435,455."""
    if value < 0x80:
        return bytes((value,))
    if value > 0xFFFFFFF:
        raise ValueError(f"{value} does not fit in a variable byte integer")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _whole(size: int) -> Callable[[bytes, int, int], tuple[int, int]]:
    def read(data: bytes, at: int, end: int) -> tuple[int, int]:
        if at + size > end:
            raise MQTTError(Reason.MALFORMED_PACKET, "a property is cut short")
        return int.from_bytes(data[at : at + size], "big"), at + size

    return read


def _read_binary(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    length, begin = _whole(2)(data, at, end)
    if begin + length > end:
        raise MQTTError(Reason.MALFORMED_PACKET, "a property is cut short")
    return data[begin : begin + length], begin + length


def _read_text(data: bytes, at: int, end: int) -> tuple[str, int]:
    value, at = _read_binary(data, at, end)
    return decode_text(value), at


def _read_pair(data: bytes, at: int, end: int) -> tuple[tuple[str, str], int]:
    name, at = _read_text(data, at, end)
    value, at = _read_text(data, at, end)
    return (name, value), at


def _encode_binary(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _encode_text(value: str) -> bytes:
    return _encode_binary(value.encode())


class _Type(NamedTuple):
    read: Callable[[bytes, int, int], tuple[Any, int]]
    encode: Callable[[Any], bytes]


_BYTE = _Type(_whole(1), lambda value: value.to_bytes(1, "big"))
_TWO = _Type(_whole(2), lambda value: value.to_bytes(2, "big"))
_FOUR = _Type(_whole(4), lambda value: value.to_bytes(4, "big"))
_VARINT = _Type(read_varint, encode_varint)
_BINARY = _Type(_read_binary, _encode_binary)
_TEXT = _Type(_read_text, _encode_text)
_PAIR = _Type(_read_pair, lambda pair: _encode_text(pair[0]) + _encode_text(pair[1]))


class _Row(NamedTuple):
    """`least` and `most` bound a number; `outside` is the reason for one that is not within."""

    type: _Type
    kinds: frozenset[Kind]
    least: int = 0
    most: int = 0xFFFFFFFF
    outside: Reason = Reason.PROTOCOL_ERROR


def _in(*kinds: Kind) -> frozenset[Kind]:
    return frozenset(kinds)


_MESSAGE = _in(Kind.PUBLISH, Kind.WILL)
_EVERYWHERE = frozenset(Kind)
_ANSWERS = _EVERYWHERE - _in(Kind.CONNECT, Kind.PUBLISH, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE, Kind.WILL)

#: Table 2-4 of the standard.
_TABLE: dict[int, _Row] = {
    Property.PAYLOAD_FORMAT_INDICATOR: _Row(_BYTE, _MESSAGE, most=1),
    Property.MESSAGE_EXPIRY_INTERVAL: _Row(_FOUR, _MESSAGE),
    Property.CONTENT_TYPE: _Row(_TEXT, _MESSAGE),
    Property.RESPONSE_TOPIC: _Row(_TEXT, _MESSAGE),
    Property.CORRELATION_DATA: _Row(_BINARY, _MESSAGE),
    Property.SUBSCRIPTION_IDENTIFIER: _Row(_VARINT, _in(Kind.PUBLISH, Kind.SUBSCRIBE), least=1),
    Property.SESSION_EXPIRY_INTERVAL: _Row(_FOUR, _in(Kind.CONNECT, Kind.CONNACK, Kind.DISCONNECT)),
    Property.ASSIGNED_CLIENT_IDENTIFIER: _Row(_TEXT, _in(Kind.CONNACK)),
    Property.SERVER_KEEP_ALIVE: _Row(_TWO, _in(Kind.CONNACK)),
    Property.AUTHENTICATION_METHOD: _Row(_TEXT, _in(Kind.CONNECT, Kind.CONNACK, Kind.AUTH)),
    Property.AUTHENTICATION_DATA: _Row(_BINARY, _in(Kind.CONNECT, Kind.CONNACK, Kind.AUTH)),
    Property.REQUEST_PROBLEM_INFORMATION: _Row(_BYTE, _in(Kind.CONNECT), most=1),
    Property.WILL_DELAY_INTERVAL: _Row(_FOUR, _in(Kind.WILL)),
    Property.REQUEST_RESPONSE_INFORMATION: _Row(_BYTE, _in(Kind.CONNECT), most=1),
    Property.RESPONSE_INFORMATION: _Row(_TEXT, _in(Kind.CONNACK)),
    Property.SERVER_REFERENCE: _Row(_TEXT, _in(Kind.CONNACK, Kind.DISCONNECT)),
    Property.REASON_STRING: _Row(_TEXT, _ANSWERS),
    Property.RECEIVE_MAXIMUM: _Row(_TWO, _in(Kind.CONNECT, Kind.CONNACK), least=1),
    Property.TOPIC_ALIAS_MAXIMUM: _Row(_TWO, _in(Kind.CONNECT, Kind.CONNACK)),
    Property.TOPIC_ALIAS: _Row(_TWO, _in(Kind.PUBLISH), least=1, outside=Reason.TOPIC_ALIAS_INVALID),  # [MQTT-3.3.2-8]
    Property.MAXIMUM_QOS: _Row(_BYTE, _in(Kind.CONNACK), most=1),
    Property.RETAIN_AVAILABLE: _Row(_BYTE, _in(Kind.CONNACK), most=1),
    Property.USER_PROPERTY: _Row(_PAIR, _EVERYWHERE),
    Property.MAXIMUM_PACKET_SIZE: _Row(_FOUR, _in(Kind.CONNECT, Kind.CONNACK), least=1),
    Property.WILDCARD_SUBSCRIPTION_AVAILABLE: _Row(_BYTE, _in(Kind.CONNACK), most=1),
    Property.SUBSCRIPTION_IDENTIFIER_AVAILABLE: _Row(_BYTE, _in(Kind.CONNACK), most=1),
    Property.SHARED_SUBSCRIPTION_AVAILABLE: _Row(_BYTE, _in(Kind.CONNACK), most=1),
}


def read_properties(data: bytes, at: int, end: int, kind: Kind, most: int) -> tuple[Properties, int]:
    """The properties at `at`, and the position behind them. `most` is how many are read; more are refused."""
    length, at = read_varint(data, at, end)
    if length == 0:
        return NO_PROPERTIES, at
    stop = at + length
    if stop > end:
        raise MQTTError(Reason.MALFORMED_PACKET, "the properties are longer than their packet")
    found: dict[Property, Any] = {}
    count = 0
    while at < stop:
        number, at = read_varint(data, at, stop)
        row = _TABLE.get(number)
        if row is None or kind not in row.kinds:
            raise MQTTError(Reason.MALFORMED_PACKET, f"there is no property {number:#04x} in {kind.name}")
        count += 1
        if count > most:
            raise MQTTError(Reason.QUOTA_EXCEEDED, f"more than {most} properties")
        value, at = row.type.read(data, at, stop)
        known = Property(number)
        if isinstance(value, int) and not row.least <= value <= row.most:
            raise MQTTError(row.outside, f"{known.name} cannot be {value}")
        if known is Property.USER_PROPERTY or (known is Property.SUBSCRIPTION_IDENTIFIER and kind is Kind.PUBLISH):
            found.setdefault(known, []).append(value)
        elif known in found:
            raise MQTTError(Reason.PROTOCOL_ERROR, f"{known.name} appears twice")
        elif known is Property.SUBSCRIPTION_IDENTIFIER:
            found[known] = [value]
        else:
            found[known] = value
    return found, at


def encode_properties(properties: Properties) -> bytes:
    """With their length. Raises `ValueError` or `OverflowError` for a value that does not fit."""
    if not properties:
        return b"\0"
    out = bytearray()
    for known, value in properties.items():
        write = _TABLE[known].type.encode
        for each in value if isinstance(value, list) else (value,):
            out.append(known)
            out += write(each)
    return encode_varint(len(out)) + out
