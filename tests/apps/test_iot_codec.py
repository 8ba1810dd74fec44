"""The codec of MQTT: what was encoded is decoded, however it was cut, and what breaks the standard is refused with the right reason."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from muxwsgi_iot.mqtt import (
    NO_PROPERTIES,
    Ack,
    Auth,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    Limits,
    MQTTError,
    Packet,
    Ping,
    Property,
    Publish,
    Reason,
    Suback,
    Subscribe,
    SubscribeTo,
    Unsuback,
    Unsubscribe,
    Version,
    Will,
    encode,
)
from muxwsgi_iot.mqtt.properties import Kind, encode_varint, read_varint

from muxwsgi.testing import pieces

V311, V5 = Version.V311, Version.V5

_texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
_topics = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0+#"), min_size=1, max_size=20)
_filters = st.one_of(_topics.filter(lambda topic: not topic.startswith("$share/")), st.sampled_from(["#", "+", "a/+/b", "a/#", "/+", "$share/g/a/+"]))
_ids = st.integers(1, 65535)
_qos = st.integers(0, 2)
_binary = st.binary(max_size=40)
_user = st.lists(st.tuples(_texts, _texts), min_size=1, max_size=3)
_four = st.integers(0, 0xFFFFFFFF)
_message = {
    Property.PAYLOAD_FORMAT_INDICATOR: st.integers(0, 1),
    Property.MESSAGE_EXPIRY_INTERVAL: _four,
    Property.CONTENT_TYPE: _texts,
    Property.RESPONSE_TOPIC: _topics,
    Property.CORRELATION_DATA: _binary,
    Property.USER_PROPERTY: _user,
}
_answer = {Property.REASON_STRING: _texts, Property.USER_PROPERTY: _user}


def _properties(known: dict[Property, st.SearchStrategy[object]], v5: bool) -> st.SearchStrategy[object]:
    return st.fixed_dictionaries({}, optional=known).map(lambda found: found or NO_PROPERTIES) if v5 else st.just(NO_PROPERTIES)


@st.composite
def packets(draw: st.DrawFn, version: Version) -> Packet:
    v5 = version is V5
    kind = draw(st.integers(0, 8 if v5 else 7))
    identifier = {Property.SUBSCRIPTION_IDENTIFIER: st.lists(st.integers(1, 0xFFFFFFF), min_size=1, max_size=1)}
    if kind == 0:
        qos = draw(_qos)
        known = _properties({**_message, Property.TOPIC_ALIAS: _ids, **identifier}, v5)
        return Publish(draw(_topics), draw(_binary), qos, draw(st.booleans()), bool(qos) and draw(st.booleans()), draw(_ids) if qos else 0, draw(known))
    if kind == 1:
        which = draw(st.sampled_from([Kind.PUBACK, Kind.PUBREC, Kind.PUBREL, Kind.PUBCOMP]))
        reasons = [Reason.SUCCESS, Reason.PACKET_IDENTIFIER_NOT_FOUND if which in (Kind.PUBREL, Kind.PUBCOMP) else Reason.NOT_AUTHORIZED]
        return Ack(which, draw(_ids), draw(st.sampled_from(reasons)) if v5 else Reason.SUCCESS, draw(_properties(_answer, v5)))
    if kind == 2:
        flags = st.booleans() if v5 else st.just(False)
        shared = draw(st.lists(st.builds(SubscribeTo, _filters, _qos, flags, flags, st.integers(0, 2) if v5 else st.just(0)), min_size=1, max_size=4))
        for each in shared:
            each.no_local = each.no_local and not each.filter.startswith("$share/")
        return Subscribe(draw(_ids), tuple(shared), draw(_properties({Property.USER_PROPERTY: _user, **identifier}, v5)))
    if kind == 3:
        return Suback(draw(_ids), tuple(draw(st.lists(st.sampled_from([0, 1, 2, 0x80]), max_size=4))), draw(_properties(_answer, v5)))
    if kind == 4:
        return Unsubscribe(draw(_ids), tuple(draw(st.lists(_filters, min_size=1, max_size=4))), draw(_properties({Property.USER_PROPERTY: _user}, v5)))
    if kind == 5:
        return Unsuback(draw(_ids), tuple(draw(st.lists(st.sampled_from([0, 0x11]), max_size=4))) if v5 else (), draw(_properties(_answer, v5)))
    if kind == 6:
        return Ping(draw(st.booleans()))
    if kind == 7:
        if not v5:
            return Disconnect()
        known = {**_answer, Property.SESSION_EXPIRY_INTERVAL: _four, Property.SERVER_REFERENCE: _texts}
        return Disconnect(draw(st.sampled_from([Reason.SUCCESS, Reason.DISCONNECT_WITH_WILL, Reason.SESSION_TAKEN_OVER])), draw(_properties(known, v5)))
    known = {**_answer, Property.AUTHENTICATION_METHOD: _texts, Property.AUTHENTICATION_DATA: _binary}
    return Auth(draw(st.sampled_from([Reason.SUCCESS, Reason.CONTINUE_AUTHENTICATION, Reason.REAUTHENTICATE])), draw(_properties(known, v5)))


@st.composite
def connects(draw: st.DrawFn, version: Version) -> Connect:
    v5 = version is V5
    known = {
        Property.SESSION_EXPIRY_INTERVAL: _four,
        Property.RECEIVE_MAXIMUM: _ids,
        Property.MAXIMUM_PACKET_SIZE: st.integers(1, 0xFFFFFFFF),
        Property.TOPIC_ALIAS_MAXIMUM: st.integers(0, 65535),
        Property.REQUEST_PROBLEM_INFORMATION: st.integers(0, 1),
        Property.AUTHENTICATION_METHOD: _texts,
        Property.USER_PROPERTY: _user,
    }
    will_known = {**_message, Property.WILL_DELAY_INTERVAL: _four}
    will = draw(st.none() | st.builds(Will, _topics, _binary, _qos, st.booleans(), _properties(will_known, v5)))
    username = draw(st.none() | _texts)
    password = draw(st.none() | _binary) if v5 or username is not None else None
    return Connect(draw(_texts), version, draw(st.booleans()), draw(st.integers(0, 65535)), will, username, password, draw(_properties(known, v5)))


def decoded(data: bytes, version: Version | None) -> list[Packet]:
    return list(Decoder(version=version).feed(data))


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([V311, V5]), st.lists(st.integers(0, 10_000), max_size=6))
def test_what_was_encoded_is_decoded_however_it_is_cut(data: st.DataObject, version: Version, cuts: list[int]) -> None:
    sent = [data.draw(connects(version)), *data.draw(st.lists(packets(version), max_size=4))]
    stream = b"".join(encode(packet, version) for packet in sent)
    decoder = Decoder()
    assert [packet for piece in pieces(stream, *cuts) for packet in decoder.feed(piece)] == sent
    bytewise = Decoder()
    assert [packet for piece in pieces(stream, *range(len(stream))) for packet in bytewise.feed(piece)] == sent


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from([V311, V5]), st.binary(max_size=8), st.integers(0, 10_000))
def test_changed_bytes_are_packets_or_an_error_of_the_peer(data: st.DataObject, version: Version, noise: bytes, at: int) -> None:
    stream = encode(data.draw(connects(version)), version) + encode(data.draw(packets(version)), version)
    at %= len(stream)
    changed = stream[:at] + noise + stream[at + len(noise) :]
    outcomes = []
    for parts in ([changed], pieces(changed, *range(len(changed)))):
        decoder, found = Decoder(), []
        try:
            for part in parts:
                found += list(decoder.feed(part))
        except MQTTError as error:
            outcomes.append((found if len(parts) > 1 else None, error.reason, str(error)))
        else:
            outcomes.append((None, None, ""))
    assert outcomes[0][1:] == outcomes[1][1:]


@given(st.integers(0, 0xFFFFFFF))
def test_a_variable_byte_integer_is_as_short_as_it_can_be(value: int) -> None:
    data = encode_varint(value)
    assert read_varint(data, 0, len(data)) == (value, len(data))
    assert len(data) == (1 if value < 128 else 2 if value < 16384 else 3 if value < 2097152 else 4)


def test_connack_is_decoded_by_a_client() -> None:
    known = {Property.ASSIGNED_CLIENT_IDENTIFIER: "x", Property.SERVER_KEEP_ALIVE: 60}
    assert decoded(encode(Connack(True, 0, known), V5), V5) == [Connack(True, 0, known)]
    assert decoded(encode(Connack(False, 5), V311), V311) == [Connack(False, 5)]


_CONNECT4, _CONNECT5 = b"\x10\x0d\0\4MQTT\4\2\0\x3c\0\1c", b"\x10\x0e\0\4MQTT\5\2\0\x3c\0\0\1c"

#: What breaks a normative statement: its number, the version that is spoken (None: nothing yet), the bytes, the reason.
BROKEN = [
    ("MQTT-1.5.4-1 surrogate", V5, b"\x30\x06\0\3\xed\xa0\x80\0", Reason.MALFORMED_PACKET),
    ("MQTT-1.5.4-1 overlong", V5, b"\x30\x05\0\2\xc0\x80\0", Reason.MALFORMED_PACKET),
    ("MQTT-1.5.4-2 NUL", V311, b"\x30\x05\0\3a\0b", Reason.MALFORMED_PACKET),
    ("MQTT-1.5.5-1 long length", V5, b"\x30\x85\x00\0\1a\0x", Reason.MALFORMED_PACKET),
    ("MQTT-1.5.5-1 five bytes", V5, b"\x30\x80\x80\x80\x80\x01", Reason.MALFORMED_PACKET),
    ("MQTT-2.1.3-1 flags of SUBSCRIBE", V5, b"\x80\x07\0\1\0\0\1a\0", Reason.MALFORMED_PACKET),
    ("MQTT-2.1.3-1 flags of PINGREQ", V311, b"\xc1\0", Reason.MALFORMED_PACKET),
    ("MQTT-3.6.1-1 flags of PUBREL", V311, b"\x60\2\0\1", Reason.MALFORMED_PACKET),
    ("MQTT-2.2.1-3 packet id 0", V311, b"\x32\x05\0\1a\0\0", Reason.PROTOCOL_ERROR),
    ("MQTT-2.2.1-3 packet id 0 in SUBSCRIBE", V311, b"\x82\x06\0\0\0\1a\0", Reason.PROTOCOL_ERROR),
    ("packet type 0", V5, b"\0\0", Reason.MALFORMED_PACKET),
    ("AUTH in 3.1.1", V311, b"\xf0\0", Reason.MALFORMED_PACKET),
    ("MQTT-3.1.0-1 first packet", None, b"\xc0\0", Reason.PROTOCOL_ERROR),
    ("MQTT-3.1.0-2 second CONNECT", None, _CONNECT5 + _CONNECT5, Reason.PROTOCOL_ERROR),
    ("MQTT-3.1.2-1 name", None, b"\x10\x0d\0\4MQTX\4\2\0\x3c\0\1c", Reason.UNSUPPORTED_PROTOCOL_VERSION),
    ("MQTT-3.1.2-2 level 3", None, b"\x10\x0f\0\6MQIsdp\3\2\0\x3c\0\1c", Reason.UNSUPPORTED_PROTOCOL_VERSION),
    ("MQTT-3.1.2-2 level 6", None, b"\x10\x0d\0\4MQTT\6\2\0\x3c\0\1c", Reason.UNSUPPORTED_PROTOCOL_VERSION),
    ("MQTT-3.1.2-3 reserved flag", None, b"\x10\x0d\0\4MQTT\4\3\0\x3c\0\1c", Reason.MALFORMED_PACKET),
    ("MQTT-3.1.2-11 will QoS without will", None, b"\x10\x0d\0\4MQTT\4\x0a\0\x3c\0\1c", Reason.MALFORMED_PACKET),
    ("MQTT-3.1.2-12 will QoS 3", None, b"\x10\x13\0\4MQTT\4\x1e\0\x3c\0\1c\0\1t\0\1p", Reason.MALFORMED_PACKET),
    ("MQTT-3.1.2-22 of 3.1.1, password without name", None, b"\x10\x10\0\4MQTT\4\x42\0\x3c\0\1c\0\1p", Reason.MALFORMED_PACKET),
    ("CONNECT cut short", None, b"\x10\x0b\0\4MQTT\4\2\0\x3c\0", Reason.MALFORMED_PACKET),
    ("CONNECT with more behind", None, b"\x10\x0e\0\4MQTT\4\2\0\x3c\0\1cX", Reason.MALFORMED_PACKET),
    ("3.1.2.11.9 data without method", None, b"\x10\x12\0\4MQTT\5\2\0\x3c\4\x16\0\1x\0\1c", Reason.PROTOCOL_ERROR),
    ("3.1.2.11.3 receive maximum 0", None, b"\x10\x11\0\4MQTT\5\2\0\x3c\3\x21\0\0\0\1c", Reason.PROTOCOL_ERROR),
    ("3.1.2.11.4 maximum packet size 0", None, b"\x10\x13\0\4MQTT\5\2\0\x3c\5\x27\0\0\0\0\0\1c", Reason.PROTOCOL_ERROR),
    ("2.2.2 a property twice", None, b"\x10\x14\0\4MQTT\5\2\0\x3c\6\x21\0\1\x21\0\1\0\1c", Reason.PROTOCOL_ERROR),
    ("2.2.2.2 unknown property", None, b"\x10\x10\0\4MQTT\5\2\0\x3c\2\x7f\1\0\1c", Reason.MALFORMED_PACKET),
    ("2.2.2.2 property of another packet", V5, b"\x30\x07\0\1a\3\x21\0\1", Reason.MALFORMED_PACKET),
    ("properties beyond the packet", V5, b"\x30\x05\0\1a\x09\1", Reason.MALFORMED_PACKET),
    ("payload format 2", V5, b"\x30\x06\0\1a\2\1\2", Reason.PROTOCOL_ERROR),
    ("MQTT-3.3.1-2 DUP with QoS 0", V311, b"\x38\3\0\1a", Reason.MALFORMED_PACKET),
    ("MQTT-3.3.1-4 QoS 3", V311, b"\x36\5\0\1a\0\1", Reason.MALFORMED_PACKET),
    ("MQTT-3.3.2-2 wildcard in a topic", V311, b"\x30\3\0\1#", Reason.TOPIC_NAME_INVALID),
    ("MQTT-3.3.2-8 alias 0", V5, b"\x30\x06\0\0\3\x23\0\0", Reason.TOPIC_ALIAS_INVALID),
    ("MQTT-3.3.2-14 wildcard in a response topic", V5, b"\x30\x08\0\1a\4\x08\0\1+", Reason.TOPIC_NAME_INVALID),
    ("3.3.2.1 no topic and no alias", V5, b"\x30\x03\0\0\0", Reason.PROTOCOL_ERROR),
    ("MQTT-4.7.3-1 empty topic", V311, b"\x30\2\0\0", Reason.TOPIC_NAME_INVALID),
    ("PUBLISH shorter than its topic", V311, b"\x30\3\0\2a", Reason.MALFORMED_PACKET),
    ("PUBLISH without a packet id", V311, b"\x32\4\0\1a\1", Reason.MALFORMED_PACKET),
    ("PUBACK with a reason of another packet", V5, b"\x40\3\0\1\x92", Reason.MALFORMED_PACKET),
    ("MQTT-3.8.3-2 SUBSCRIBE to nothing", V311, b"\x82\2\0\1", Reason.MALFORMED_PACKET),
    ("MQTT-3.8.3-4 no local and shared", V5, b"\x82\x11\0\1\0\0\x0b$share/g/ab\4", Reason.PROTOCOL_ERROR),
    ("MQTT-3.8.3-5 reserved options", V311, b"\x82\6\0\1\0\1a\4", Reason.MALFORMED_PACKET),
    ("MQTT-3.8.3-5 reserved options of 5", V5, b"\x82\7\0\1\0\0\1a\x40", Reason.MALFORMED_PACKET),
    ("3.8.3.1 retain handling 3", V5, b"\x82\7\0\1\0\0\1a\x30", Reason.PROTOCOL_ERROR),
    ("3.8.2.1.2 subscription identifier 0", V5, b"\x82\x09\0\1\2\x0b\0\0\1a\0", Reason.PROTOCOL_ERROR),
    ("QoS 3 in SUBSCRIBE", V311, b"\x82\6\0\1\0\1a\3", Reason.MALFORMED_PACKET),
    ("MQTT-3.10.3-2 UNSUBSCRIBE from nothing", V311, b"\xa2\2\0\1", Reason.MALFORMED_PACKET),
    ("MQTT-3.14.1-1 flags of DISCONNECT", V311, b"\xe1\0", Reason.MALFORMED_PACKET),
    ("DISCONNECT with a body in 3.1.1", V311, b"\xe0\1\0", Reason.MALFORMED_PACKET),
    ("MQTT-4.7.1-1 '#' not at the end", V311, b"\x82\x08\0\1\0\3#/a\0", Reason.TOPIC_FILTER_INVALID),
    ("MQTT-4.7.1-1 '#' not alone", V311, b"\x82\x07\0\1\0\2a#\0", Reason.TOPIC_FILTER_INVALID),
    ("MQTT-4.7.1-2 '+' not alone", V311, b"\x82\x07\0\1\0\2a+\0", Reason.TOPIC_FILTER_INVALID),
    ("MQTT-4.8.2-1 empty share name", V5, b"\x82\x10\0\1\0\0\x0a$share//ab\0", Reason.TOPIC_FILTER_INVALID),
    ("MQTT-4.8.2-2 share without a filter", V5, b"\x82\x0e\0\1\0\0\x08$share/g\0", Reason.TOPIC_FILTER_INVALID),
]


@pytest.mark.parametrize(("version", "data", "reason"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_what_breaks_the_standard_is_refused(version: Version | None, data: bytes, reason: Reason) -> None:
    for parts in ([data], pieces(data, *range(len(data)))):
        decoder = Decoder(version=version)
        with pytest.raises(MQTTError) as refused:
            for part in parts:
                list(decoder.feed(part))
        assert refused.value.reason is reason


def test_what_comes_before_a_fault_is_still_there() -> None:
    found = []
    with pytest.raises(MQTTError):
        for packet in Decoder(version=V311).feed(b"\x30\3\0\1a\xc0\0\0\0"):
            found.append(packet)
    assert found == [Publish("a"), Ping()]


def test_limits() -> None:
    limits = Limits(max_connect_size=20, max_packet_size=40, max_topic_size=10, max_levels=3, max_properties=2)

    def refusal(data: bytes, version: Version | None) -> Reason:
        with pytest.raises(MQTTError) as refused:
            list(Decoder(limits, version).feed(data))
        return refused.value.reason

    assert refusal(b"\x10\x13", None) is Reason.PACKET_TOO_LARGE  # before it has come
    assert refusal(b"\x30\x27", V5) is Reason.PACKET_TOO_LARGE
    assert list(Decoder(limits, V5).feed(b"\x30\x26")) == []
    assert refusal(encode(Publish("a" * 11), V5), V5) is Reason.TOPIC_NAME_INVALID
    assert refusal(encode(Publish("a/b/c/d"), V5), V5) is Reason.TOPIC_NAME_INVALID
    assert refusal(encode(Subscribe(1, (SubscribeTo("a/b/c/#"),)), V5), V5) is Reason.TOPIC_FILTER_INVALID
    assert refusal(encode(Publish("a", properties={Property.USER_PROPERTY: [("", "")] * 3}), V5), V5) is Reason.QUOTA_EXCEEDED
    assert len(list(Decoder(limits, V5).feed(encode(Publish("a/b/c", properties={Property.USER_PROPERTY: [("", "")] * 2}), V5)))) == 1


def test_a_bom_is_kept_and_dup_alone_is_not_a_fault() -> None:
    (packet,) = decoded(encode(Publish("\ufeffa", qos=1, dup=True, packet_id=7), V311), V311)
    assert packet == Publish("\ufeffa", qos=1, dup=True, packet_id=7)  # [MQTT-1.5.4-3]
