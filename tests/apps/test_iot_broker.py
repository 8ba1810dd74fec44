"""The broker, as dialogues of clients in memory. Numbers in brackets are normative statements of MQTT 5."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from muxwsgi_iot import Gateway, Options
from muxwsgi_iot.broker import Broker
from muxwsgi_iot.mqtt import (
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Ping,
    Property,
    Publish,
    Reason,
    Subscribe,
    SubscribeTo,
    Unsuback,
    Unsubscribe,
    Version,
    Will,
    encode,
)
from muxwsgi_iot.mqtt.properties import Kind

from muxwsgi.testing import connection_pair
from muxwsgi.testing.laws import hijacker_laws
from tests.apps.iot_client import Client

V311, V5 = Version.V311, Version.V5


class World:
    """A broker with a clock that the test turns, and its clients."""

    def __init__(self, **options: Any) -> None:
        self.time = 1000.0
        self.gateway = Gateway(Options(**{"allow_anonymous": True, **options}), Broker(now=lambda: self.time))
        self.broker = self.gateway.broker
        self.greenlets: list[Any] = []
        self.ends: list[Any] = []

    def client(self, version: Version = V5) -> Client:
        near, far = connection_pair()
        self.ends += [near, far]
        self.greenlets.append(gevent.spawn(self._serve, near))
        return Client(far, version)

    def _serve(self, connection: Any) -> None:
        try:
            self.gateway(connection)
        finally:
            connection.close()

    def connected(self, client_id: str = "c", version: Version = V5, **more: Any) -> Client:
        client = self.client(version)
        client.connect(client_id, **more)
        return client

    def passes(self, seconds: float) -> None:
        self.time += seconds
        self.broker.tick()
        gevent.sleep(0)

    def gone(self, client: Client) -> None:
        """The client is cut off, and the broker has noticed."""
        client.sock.close()
        for _ in range(1000):
            gevent.sleep(0)
            if self.broker.connections == sum(not greenlet.dead for greenlet in self.greenlets):
                break
        gevent.sleep(0.001)

    def close(self) -> None:
        for end in self.ends:
            end.close()
        gevent.joinall(self.greenlets, timeout=5)
        failed = [greenlet.exception for greenlet in self.greenlets if greenlet.exception and not isinstance(greenlet.exception, OSError)]
        assert failed == []


@pytest.fixture
def make() -> Iterator[Any]:
    worlds: list[World] = []

    def world(**options: Any) -> World:
        worlds.append(World(**options))
        return worlds[-1]

    with gevent.Timeout(20):
        yield world
        for each in worlds:
            each.close()


@pytest.fixture
def world(make: Any) -> Any:
    return make()


versions = pytest.mark.parametrize("version", [V311, V5])

HELLO = encode(Connect("laws", V311), V311) + encode(Publish("a", b"x", 1, packet_id=3), V311) + encode(Ping(), V311)
TestGateway = hijacker_laws(Gateway(Options(allow_anonymous=True)), dialogues=[(HELLO, b"\x20\2\0\0\x40\2\0\3\xd0\0")])


# CONNECT


@versions
def test_the_first_packet_is_connect_and_comes_once(world: World, version: Version) -> None:
    client = world.client(version)
    client.publish("a")
    assert client.receive() is None  # [MQTT-3.1.0-1]
    client = world.connected("x", version)
    client.send(Connect("x", version))
    if version is V5:
        assert client.receive().reason is Reason.PROTOCOL_ERROR
    assert client.receive() is None  # [MQTT-3.1.0-2]


def test_an_empty_client_identifier_gets_one(world: World) -> None:
    first, second = (world.client().connect("").properties[Property.ASSIGNED_CLIENT_IDENTIFIER] for _ in range(2))
    assert first != second and {first, second} <= set(world.broker.sessions)  # [MQTT-3.1.3-6]
    world.client(V311).connect("")
    world.client(V311).connect("", clean=False, code=2)  # [MQTT-3.1.3-8] of 3.1.1


def test_an_unknown_level_is_refused_with_its_code(world: World) -> None:
    client = world.client(V311)
    client.sock.sendall(b"\x10\x0f\0\6MQIsdp\3\2\0\x3c\0\1c")
    assert client.receive() == Connack(False, 1)  # [MQTT-3.1.2-2] of 3.1.1
    assert client.receive() is None


def test_enhanced_authentication_is_refused(world: World) -> None:
    client = world.client()
    client.connect("c", properties={Property.AUTHENTICATION_METHOD: "SCRAM"}, code=Reason.BAD_AUTHENTICATION_METHOD)
    assert client.receive() is None
    client = world.connected()
    client.send(Auth(Reason.REAUTHENTICATE))
    assert client.receive().reason is Reason.PROTOCOL_ERROR


def test_connack_says_what_the_server_takes(make: Any) -> None:
    world = make(max_inflight_messages=7, max_packet_size=5000, max_topic_alias=3, max_keepalive=100, persistent_client_expiration=60)
    known = world.client().connect("c", keep_alive=200, properties={Property.SESSION_EXPIRY_INTERVAL: 1000}).properties
    assert known == {
        Property.SESSION_EXPIRY_INTERVAL: 60,
        Property.SERVER_KEEP_ALIVE: 100,
        Property.RECEIVE_MAXIMUM: 7,
        Property.MAXIMUM_PACKET_SIZE: 5000,
        Property.TOPIC_ALIAS_MAXIMUM: 3,
    }


# Publish and subscribe


@pytest.mark.parametrize("subscribed", [0, 1, 2])
@pytest.mark.parametrize("published", [0, 1, 2])
@versions
def test_a_message_has_the_lesser_qos(world: World, version: Version, published: int, subscribed: int) -> None:
    reader, writer = world.connected("r", version), world.connected("w", version)
    assert reader.subscribe("a/+", qos=subscribed) == (subscribed,)
    answer = writer.publish("a/b", b"hello", published, packet_id=9 if published else 0)
    if published == 1:
        assert answer == Ack(Kind.PUBACK, 9)
    elif published == 2:
        assert answer == Ack(Kind.PUBREC, 9)
        writer.ack(Kind.PUBREL, 9)
        assert writer.receive() == Ack(Kind.PUBCOMP, 9)
    message = reader.receive()
    assert (message.topic, message.payload, message.qos, message.retain, message.dup) == ("a/b", b"hello", min(published, subscribed), False, False)
    if message.qos == 1:
        reader.ack(Kind.PUBACK, message.packet_id)
    elif message.qos == 2:
        reader.ack(Kind.PUBREC, message.packet_id)
        assert reader.receive() == Ack(Kind.PUBREL, message.packet_id)
        reader.ack(Kind.PUBCOMP, message.packet_id)
    assert reader.nothing_comes()
    assert world.broker.sessions["r"].queued == 0


def test_a_message_of_qos_2_that_is_repeated_is_delivered_once(world: World) -> None:
    reader, writer = world.connected("r"), world.connected("w")
    reader.subscribe("a")
    for dup in (False, True, True):
        assert writer.publish("a", b"1", 2, packet_id=5, dup=dup).kind is Kind.PUBREC
    for reason in (Reason.SUCCESS, Reason.PACKET_IDENTIFIER_NOT_FOUND):
        writer.ack(Kind.PUBREL, 5)
        assert writer.receive() == Ack(Kind.PUBCOMP, 5, reason)
    writer.publish("a", b"2", 2, packet_id=5)  # the identifier is free again
    assert [reader.receive().payload, reader.receive().payload] == [b"1", b"2"]
    assert reader.nothing_comes()


WILDCARDS = [
    ("#", "a", True), ("#", "a/b", True), ("#", "$SYS/a", False), ("+/a", "$SYS/a", False), ("$SYS/#", "$SYS/a", True), ("$SYS/+", "$SYS/a", True),
    ("a/#", "a", True), ("a/#", "a/b/c", True), ("a/#", "ab", False), ("+", "a", True), ("+", "/a", False), ("+/+", "/a", True), ("/+", "/a", True),
    ("a/+/c", "a/b/c", True), ("a/+/c", "a//c", True), ("a/+", "a", False), ("a/+", "a/b/c", False), ("A", "a", False), ("a/", "a", False), ("/a", "a", False),
]  # fmt: skip


@pytest.mark.parametrize(("topic_filter", "topic", "matched"), WILDCARDS)
def test_wildcards(world: World, topic_filter: str, topic: str, matched: bool) -> None:
    reader, late = world.connected("r"), world.connected("l")
    reader.subscribe(topic_filter)
    world.broker.publish(topic, b"x", retain=True)
    if matched:
        assert reader.receive().topic == topic
    assert reader.nothing_comes()
    late.subscribe(topic_filter)
    if matched:
        assert late.receive() == Publish(topic, b"x", retain=True)
    assert late.nothing_comes()


def test_several_matching_subscriptions_give_one_copy_with_all_identifiers(world: World) -> None:
    reader = world.connected("r")
    reader.subscribe("a/#", qos=0, identifier=3)
    reader.subscribe("a/+", qos=2, identifier=70000)
    reader.subscribe("a/b", qos=1)
    world.broker.publish("a/b", b"x", qos=2)
    message = reader.receive()  # [MQTT-3.3.4-2], [MQTT-3.3.4-3]
    assert message.qos == 2 and sorted(message.properties[Property.SUBSCRIPTION_IDENTIFIER]) == [3, 70000]
    assert reader.nothing_comes()


def test_no_local_and_retain_as_published(world: World) -> None:
    client, other = world.connected("c"), world.connected("o")
    client.subscribe(SubscribeTo("a", no_local=True, retain_as_published=True))
    client.publish("a", b"mine")
    other.publish("a", b"yours", retain=True)
    assert client.receive() == Publish("a", b"yours", retain=True)
    other.subscribe("b")
    client.publish("b", b"x", retain=True)
    assert other.receive() == Publish("b", b"x", retain=False)  # [MQTT-3.3.1-12]


def test_unsubscribe_ends_it(world: World) -> None:
    client = world.connected("c")
    client.subscribe("a", "b/#")
    client.send(Unsubscribe(4, ("a", "c")))
    assert client.receive() == Unsuback(4, (0, Reason.NO_SUBSCRIPTION_EXISTED))
    assert world.broker.publish("a", b"") == 0 and world.broker.publish("b", b"") == 1
    assert client.receive().topic == "b"


def test_shared_subscriptions_take_turns(world: World) -> None:
    members = [world.connected(f"m{n}") for n in range(3)]
    for member in members:
        member.subscribe("$share/g/a/+")
    alone = world.connected("alone")
    alone.subscribe("$share/h/a/+", "a/#")
    for n in range(6):
        world.broker.publish(f"a/{n}", b"x")
    for member in members:
        assert [member.receive().topic for _ in range(2)] and member.nothing_comes()
    assert len([alone.receive() for _ in range(12)]) == 12 and alone.nothing_comes()
    world.gone(members[0])
    for n in range(4):
        world.broker.publish(f"a/{n}", b"x")
    for member in members[1:]:
        assert [member.receive().topic for _ in range(2)] and member.nothing_comes()


def test_properties_and_user_properties_pass_through_and_aliases_do_not(world: World) -> None:
    reader, old, writer = world.connected("r"), world.connected("o", V311), world.connected("w")
    reader.subscribe("a")
    old.subscribe("a")
    passed = {
        Property.PAYLOAD_FORMAT_INDICATOR: 1,
        Property.CONTENT_TYPE: "text/plain",
        Property.RESPONSE_TOPIC: "answers/1",
        Property.CORRELATION_DATA: b"\0\1",
        Property.USER_PROPERTY: [("b", "1"), ("a", "2"), ("b", "1")],
    }
    writer.publish("a", b"x", properties={**passed, Property.TOPIC_ALIAS: 2})
    writer.publish("", b"y", properties={Property.TOPIC_ALIAS: 2})
    assert reader.receive() == Publish("a", b"x", properties=passed)
    assert reader.receive() == Publish("a", b"y")
    assert [old.receive(), old.receive()] == [Publish("a", b"x"), Publish("a", b"y")]


def test_aliases_to_a_client(world: World) -> None:
    reader = world.connected("r", properties={Property.TOPIC_ALIAS_MAXIMUM: 1})
    reader.subscribe("#", qos=1)
    for topic in ("a", "a", "b"):
        world.broker.publish(topic, b"x", qos=0)
    found = [reader.receive() for _ in range(3)]
    assert [(each.topic, dict(each.properties)) for each in found] == [("a", {Property.TOPIC_ALIAS: 1}), ("", {Property.TOPIC_ALIAS: 1}), ("b", {})]
    world.broker.publish("a", b"x", qos=1)
    assert reader.receive().topic == ""


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (Publish("", properties={Property.TOPIC_ALIAS: 1}), Reason.PROTOCOL_ERROR),  # not set
        (Publish("a", properties={Property.TOPIC_ALIAS: 17}), Reason.TOPIC_ALIAS_INVALID),
        (Publish("a", properties={Property.SUBSCRIPTION_IDENTIFIER: [1]}), Reason.PROTOCOL_ERROR),
        (Publish("a/#"), Reason.TOPIC_NAME_INVALID),
        (Connack(), Reason.PROTOCOL_ERROR),
        (Disconnect(properties={Property.SESSION_EXPIRY_INTERVAL: 10}), Reason.PROTOCOL_ERROR),
        (Publish("a", b"x" * (1 << 20)), Reason.PACKET_TOO_LARGE),
    ],
)
def test_what_a_client_may_not_send_ends_with_a_reason(world: World, packet: Any, reason: Reason) -> None:
    client = world.connected()
    gevent.spawn(_ignoring_errors, client.send, packet)
    answer = client.receive()
    assert isinstance(answer, Disconnect) and answer.reason is reason, answer
    assert client.receive() is None


def _ignoring_errors(do: Any, *arguments: Any) -> None:
    try:
        do(*arguments)
    except OSError:
        pass


# Retained messages


def test_a_retained_message_is_replaced_and_removed(world: World) -> None:
    client = world.connected("c")
    for payload in (b"1", b"2"):
        client.publish("a", payload, 1, retain=True)
    client.subscribe("a", qos=2)
    message = client.receive()
    assert (message.payload, message.retain, message.qos) == (b"2", True, 1)
    client.ack(Kind.PUBACK, message.packet_id)
    client.publish("a", b"", retain=True)
    assert client.receive() == Publish("a")
    client.subscribe("a")
    assert client.nothing_comes() and world.broker.retained.count == 0 == world.broker.retained.size


def test_retain_handling(world: World) -> None:
    world.broker.publish("a", b"x", retain=True)
    client = world.connected()
    client.subscribe(SubscribeTo("a", retain_handling=2))
    assert client.nothing_comes()
    client.subscribe(SubscribeTo("a", retain_handling=1))
    assert client.nothing_comes()
    client.subscribe(SubscribeTo("a", retain_handling=0))
    assert client.receive().payload == b"x"
    client.subscribe(SubscribeTo("+", retain_handling=1))
    assert client.receive().payload == b"x"
    client.subscribe("$share/g/a")  # none for shared ones
    assert client.nothing_comes()


def test_what_is_over_the_retained_limits_is_counted_and_not_kept(make: Any, caplog: Any) -> None:
    world = make(max_retained_messages=2, max_retained_bytes=20)
    world.broker.publish("a", b"x" * 10, retain=True)
    world.broker.publish("b", b"x" * 10, retain=True)
    world.broker.publish("c", b"x", retain=True)
    world.broker.publish("a", b"y", retain=True)
    world.broker.publish("c", b"x", retain=True)
    world.broker.publish("d", b"x", retain=True)
    assert [world.broker.retained.get(topic) is not None for topic in "abcd"] == [True, False, True, False]
    assert world.broker.counters.dropped["retained"] == 2
    assert sum("max_retained" in line.message for line in caplog.records) == 1


def test_messages_expire(world: World) -> None:
    world.broker.publish("a", b"x", retain=True, properties={Property.MESSAGE_EXPIRY_INTERVAL: 10})
    world.passes(4)
    client = world.connected()
    client.subscribe("a")
    assert client.receive().properties == {Property.MESSAGE_EXPIRY_INTERVAL: 6}  # [MQTT-3.3.2-6]
    world.passes(6)
    client.subscribe("a")
    assert client.nothing_comes()  # [MQTT-3.3.2-5]
    for _ in range(60):
        world.passes(1)
    assert world.broker.retained.count == 0


# Sessions


def kept(seconds: int = 100) -> dict[str, Any]:
    return {"clean": False, "properties": {Property.SESSION_EXPIRY_INTERVAL: seconds}}


@versions
def test_a_session_outlives_its_connection(world: World, version: Version) -> None:
    more = kept() if version is V5 else {"clean": False}
    client = world.client(version)
    assert not client.connect("c", **more).session_present
    client.subscribe("a", qos=1)
    world.gone(client)
    world.broker.publish("a", b"1", qos=1)
    world.broker.publish("a", b"lost", qos=0)
    world.broker.publish("a", b"2", qos=2)
    client = world.client(version)
    assert client.connect("c", **more).session_present  # [MQTT-3.2.2-3]
    assert [client.receive().payload for _ in range(2)] == [b"1", b"2"]
    world.gone(client)
    client = world.client(version)
    assert not client.connect("c", clean=True).session_present  # [MQTT-3.1.2-4], [MQTT-3.2.2-2]
    assert client.nothing_comes() and world.broker.publish("a", b"", qos=1) == 0


def test_unconfirmed_messages_are_sent_again_in_order_with_dup(world: World) -> None:
    client = world.client()
    client.connect("c", **kept())
    client.subscribe("a", qos=2)
    for n in range(4):
        world.broker.publish("a", b"%d" % n, qos=2 if n != 1 else 1)
    first = [client.receive() for _ in range(4)]
    client.ack(Kind.PUBREC, first[2].packet_id)
    assert client.receive().kind is Kind.PUBREL
    client.ack(Kind.PUBREC, first[3].packet_id)
    client.ack(Kind.PUBCOMP, first[3].packet_id)
    client.receive()
    client.nothing_comes()
    world.gone(client)
    client = world.client()
    client.connect("c", **kept())
    again = [client.receive() for _ in range(3)]  # [MQTT-4.4.0-1], [MQTT-4.6.0-1]
    assert [(each.payload, each.dup, each.packet_id) for each in again[:2]] == [(b"0", True, first[0].packet_id), (b"1", True, first[1].packet_id)]
    assert again[2] == Ack(Kind.PUBREL, first[2].packet_id)
    assert client.nothing_comes()


def test_a_session_ends_after_its_expiry(world: World) -> None:
    client = world.connected("c", **kept(50))
    world.gone(client)
    world.passes(49)
    assert "c" in world.broker.sessions
    client = world.client()
    assert client.connect("c", **kept(50)).session_present
    world.passes(49)  # the old timer is void
    client.send(Disconnect(properties={Property.SESSION_EXPIRY_INTERVAL: 5}))
    assert client.receive() is None
    world.gone(client)
    world.passes(4)
    assert "c" in world.broker.sessions
    world.passes(1)
    assert world.broker.sessions == {} and not world.broker._due


def test_a_second_connection_takes_the_session_over(world: World) -> None:
    first = world.connected("c", **kept())
    first.subscribe("a", qos=1)
    second = world.client()
    assert second.connect("c", **kept()).session_present
    assert first.receive().reason is Reason.SESSION_TAKEN_OVER and first.receive() is None  # [MQTT-3.1.4-3]
    world.broker.publish("a", b"x", qos=1)
    assert second.receive().payload == b"x"
    assert world.broker.connections == 1


# Wills

WILL = Will("dead", b"c", 1, retain=True)


def late_will(delay: int) -> Will:
    return Will("dead", b"c", 1, properties={Property.WILL_DELAY_INTERVAL: delay, Property.CONTENT_TYPE: "t"})


@versions
@pytest.mark.parametrize("how", ["cut", "malformed", "taken over", "disconnect"])
def test_a_will_is_published_unless_the_client_says_goodbye(world: World, version: Version, how: str) -> None:
    watcher = world.connected("w")
    watcher.subscribe("dead", qos=1)
    client = world.connected("c", version, will=WILL)
    if how == "malformed":
        client.sock.sendall(b"\0\0")
    elif how == "taken over":
        world.connected("c", version)
    elif how == "disconnect":
        client.send(Disconnect())
        assert client.receive() is None
    world.gone(client)
    if how == "disconnect":
        assert watcher.nothing_comes() and world.broker.retained.count == 0  # [MQTT-3.1.2-10]
    else:
        assert watcher.receive().payload == b"c" and world.broker.retained.count == 1


def test_a_will_after_a_disconnect_that_asks_for_it(world: World) -> None:
    watcher, client = world.connected("w"), world.connected("c", will=WILL)
    watcher.subscribe("dead")
    client.send(Disconnect(Reason.DISCONNECT_WITH_WILL))
    assert watcher.receive().topic == "dead"


def test_a_will_waits_for_its_delay_and_a_return_cancels_it(world: World) -> None:
    watcher = world.connected("w")
    watcher.subscribe("dead")
    world.gone(world.connected("c", will=late_will(10), **kept(100)))
    world.passes(9)
    assert watcher.nothing_comes()
    client = world.connected("c", will=late_will(10), **kept(100))  # [MQTT-3.1.3-9]
    world.passes(20)
    assert watcher.nothing_comes()
    world.gone(client)
    world.passes(10)
    assert watcher.receive() == Publish("dead", b"c", properties={Property.CONTENT_TYPE: "t"})
    world.passes(200)
    assert watcher.nothing_comes() and set(world.broker.sessions) == {"w"}


def test_a_will_that_waits_comes_when_its_session_ends(world: World) -> None:
    watcher = world.connected("w")
    watcher.subscribe("dead")
    world.gone(world.connected("c", will=late_will(100), **kept(10)))
    assert watcher.nothing_comes()
    world.passes(10)
    assert watcher.receive().topic == "dead"
    world.gone(world.connected("c", will=late_will(100), **kept(200)))
    world.connected("c", clean=True)  # its session begins anew
    assert watcher.receive().topic == "dead"


# Flow control and limits


def test_no_more_is_under_way_than_the_client_takes(make: Any) -> None:
    world = make(max_queued_messages=3)
    client = world.connected("c", properties={Property.RECEIVE_MAXIMUM: 2})
    client.subscribe("a", qos=2)
    for n in range(7):
        world.broker.publish("a", b"%d" % n, qos=1)
    first, second = client.receive(), client.receive()
    assert client.nothing_comes()  # [MQTT-3.3.4-7]
    assert world.broker.counters.dropped["queue"] == 2
    client.ack(Kind.PUBACK, second.packet_id)
    assert client.receive().payload == b"2" and client.nothing_comes()
    client.ack(Kind.PUBACK, first.packet_id)
    assert client.receive().payload == b"3"


def test_a_client_with_too_many_messages_of_qos_2_is_told(make: Any) -> None:
    client = make(max_inflight_messages=2).connected()
    for packet_id in (1, 2):
        client.publish("a", b"", 2, packet_id=packet_id)
    assert client.publish("a", b"", 2, packet_id=2, dup=True).kind is Kind.PUBREC
    assert client.publish("a", b"", 2, packet_id=3).reason is Reason.RECEIVE_MAXIMUM_EXCEEDED  # [MQTT-3.3.4-9]


def test_a_client_gets_no_packet_that_is_larger_than_it_takes(world: World) -> None:
    client = world.connected("c", properties={Property.MAXIMUM_PACKET_SIZE: 60})
    client.subscribe("a", qos=2)
    for qos in (0, 1, 2):
        world.broker.publish("a", b"x" * 60, qos=qos)  # [MQTT-3.1.2-24], [MQTT-3.1.2-25]
    world.broker.publish("a", b"small", qos=1)
    message = client.receive()
    assert (message.payload, message.packet_id) == (b"small", 1)
    assert world.broker.counters.dropped["too-large"] == 3
    client.send(Subscribe(1, tuple(SubscribeTo(f"f{n}") for n in range(60))))
    assert client.receive() == Disconnect(Reason.PACKET_TOO_LARGE)


def test_subscriptions_sessions_and_connections_have_limits(make: Any) -> None:
    world = make(max_subscriptions=2, max_sessions=2, max_connections=2)
    client, old = world.connected("c"), world.connected("o", V311)
    assert client.subscribe("a", "b", "c", "a") == (0, 0, Reason.QUOTA_EXCEEDED, 0)
    assert old.subscribe("a", "b", "c") == (0, 0, 0x80)
    world.client().connect("d", code=Reason.SERVER_BUSY)
    world.gone(old)
    old = world.connected("o", V311, clean=False)
    world.gone(old)
    world.client().connect("d", code=Reason.QUOTA_EXCEEDED)
    assert world.client().connect("o", clean=True).code == 0


def test_packet_identifiers_come_round_and_none_is_used_twice(make: Any) -> None:
    world = make(max_inflight_messages=3)
    client = world.connected("c")
    client.subscribe("a", qos=1)
    world.broker.sessions["c"]._next_id = 65533
    held = []
    for n in range(3):
        world.broker.publish("a", b"%d" % n, qos=1)
        held.append(client.receive().packet_id)
    assert held == [65534, 65535, 1]
    world.broker.sessions["c"]._next_id = 65533
    client.ack(Kind.PUBACK, 65535)
    client.nothing_comes()
    world.broker.publish("a", b"x", qos=1)
    assert client.receive().packet_id == 65535  # 65534 is in use [MQTT-2.2.1-4]


def test_a_slow_subscriber_delays_nobody_and_loses_what_is_over_the_limit(make: Any) -> None:
    world = make(max_queued_bytes=200_000)
    slow, fast = world.connected("slow"), world.connected("fast")
    slow.subscribe("a")
    fast.subscribe("a")
    for n in range(100):
        world.broker.publish("a", b"%03d" % n + b"x" * 10_000)
        assert fast.receive().payload.startswith(b"%03d" % n)
    assert 60 <= world.broker.counters.dropped["slow"] < 100
    got = [slow.receive().payload[:3] for _ in range(100 - world.broker.counters.dropped["slow"])]
    assert got == [b"%03d" % n for n in range(len(got))]
    world.broker.publish("a", b"again")
    assert slow.receive().payload == b"again"


def test_a_client_that_does_not_receive_its_answers_waits_for_itself(world: World) -> None:
    client = world.connected()
    sender = gevent.spawn(_ignoring_errors, client.send, *[Ping()] * 500_000)
    gevent.sleep(0.2)
    link = world.broker.sessions["c"].link
    assert link is not None and link.behind < 1 << 20 and not sender.dead
    for _ in range(500_000):
        assert client.receive() == Ping(is_response=True)


# The application


def test_functions_of_the_application_get_messages(world: World) -> None:
    found: list[Any] = []
    world.broker.publish("a/old", b"0", retain=True)

    def fails_once(message: Any) -> None:
        found.append((message.topic, message.payload))
        if message.payload == b"1":
            raise RuntimeError("this one fails")

    handle = world.broker.subscribe("a/+", fails_once)
    client = world.connected()
    client.publish("a/b", b"1")
    client.publish("a/b", b"2")
    client.nothing_comes()
    gevent.sleep(0)
    assert found == [("a/old", b"0"), ("a/b", b"1"), ("a/b", b"2")]
    handle.close()
    assert world.broker.publish("a/b", b"3") == 0
    with pytest.raises(ValueError):
        world.broker.publish("a/#", b"")
    with pytest.raises(ValueError):
        world.broker.subscribe("a#", print)


def test_a_function_that_publishes_what_it_gets_ends_with_its_subscription(world: World) -> None:
    count = 0

    def echo(message: Any) -> None:
        nonlocal count
        count += 1
        gevent.sleep(0)
        world.broker.publish("a", b"again")

    handle = world.broker.subscribe("a", echo)
    world.broker.publish("a", b"x")
    while count < 10:
        gevent.sleep(0)
    handle.close()
