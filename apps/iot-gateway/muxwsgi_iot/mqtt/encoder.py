"""`encode`: the bytes of a packet. `publish_parts` is for a server that sends one message to many clients."""

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
    Unsuback,
    Unsubscribe,
    Version,
)
from muxwsgi_iot.mqtt.properties import Kind, Properties, encode_properties, encode_varint
from muxwsgi_iot.mqtt.reasons import Reason

__all__ = ["encode", "encode_ack", "publish_parts"]


def encode(packet: Packet, version: Version) -> bytes:
    """The bytes of `packet`. Its values are the caller's: `ValueError` or `OverflowError` if one does not fit."""
    v5 = version is Version.V5
    match packet:
        case Publish():
            before, after = publish_parts(packet, version)
            return before + packet.packet_id.to_bytes(2, "big") + after if packet.qos else before + after
        case Ack():
            return encode_ack(packet.kind, packet.packet_id, packet.reason, packet.properties, v5)
        case Connect():
            return _packet(0x10, _connect(packet, v5))
        case Connack():
            body = bytes((packet.session_present, packet.code))
            return _packet(0x20, body + encode_properties(packet.properties) if v5 else body)
        case Subscribe():
            asked = b"".join(
                _text(each.filter) + bytes((each.qos | each.no_local << 2 | each.retain_as_published << 3 | each.retain_handling << 4,))
                for each in packet.subscriptions
            )
            return _packet(0x82, _identified(packet.packet_id, packet.properties, v5) + asked)
        case Suback():
            return _packet(0x90, _identified(packet.packet_id, packet.properties, v5) + bytes(packet.codes))
        case Unsubscribe():
            return _packet(0xA2, _identified(packet.packet_id, packet.properties, v5) + b"".join(map(_text, packet.filters)))
        case Unsuback():
            return _packet(0xB0, _identified(packet.packet_id, packet.properties, v5) + (bytes(packet.codes) if v5 else b""))
        case Ping():
            return b"\xd0\0" if packet.is_response else b"\xc0\0"
        case Disconnect():
            return _packet(0xE0, _reasoned(packet.reason, packet.properties) if v5 else b"")
        case Auth():
            return _packet(0xF0, _reasoned(packet.reason, packet.properties))


def publish_parts(packet: Publish, version: Version) -> tuple[bytes, bytes]:
    """The bytes before the packet identifier and behind it. Its length is counted with QoS 1 and 2."""
    topic = packet.topic.encode()
    after = encode_properties(packet.properties) + packet.payload if version is Version.V5 else packet.payload
    size = 2 + len(topic) + (2 if packet.qos else 0) + len(after)
    first = 0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain
    return bytes((first,)) + encode_varint(size) + len(topic).to_bytes(2, "big") + topic, after


def encode_ack(kind: Kind, packet_id: int, reason: Reason, properties: Properties, v5: bool) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""
    first = kind << 4 | (2 if kind is Kind.PUBREL else 0)  # [MQTT-3.6.1-1]
    if not v5 or (reason is Reason.SUCCESS and not properties):
        return bytes((first, 2, packet_id >> 8, packet_id & 0xFF))
    body = packet_id.to_bytes(2, "big") + _reasoned(reason, properties)
    return _packet(first, body)


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + encode_varint(len(body)) + body


def _text(value: str) -> bytes:
    return _binary(value.encode())


def _binary(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _identified(packet_id: int, properties: Properties, v5: bool) -> bytes:
    head = packet_id.to_bytes(2, "big")
    return head + encode_properties(properties) if v5 else head


def _reasoned(reason: Reason, properties: Properties) -> bytes:
    """A reason with properties; left out where they say nothing (sections 3.4.2.1, 3.14.2.1, 3.15.2.1)."""
    if properties:
        return bytes((reason,)) + encode_properties(properties)
    return bytes((reason,)) if reason is not Reason.SUCCESS else b""


def _connect(packet: Connect, v5: bool) -> bytes:
    will = packet.will
    flags = packet.clean_start << 1 | (packet.username is not None) << 7 | (packet.password is not None) << 6
    if will is not None:
        flags |= 1 << 2 | will.qos << 3 | will.retain << 5
    out = [b"\0\4MQTT", bytes((packet.version, flags)), packet.keep_alive.to_bytes(2, "big")]
    if v5:
        out.append(encode_properties(packet.properties))
    out.append(_text(packet.client_id))
    if will is not None:
        if v5:
            out.append(encode_properties(will.properties))
        out += (_text(will.topic), _binary(will.payload))
    if packet.username is not None:
        out.append(_text(packet.username))
    if packet.password is not None:
        out.append(_binary(packet.password))
    return b"".join(out)
