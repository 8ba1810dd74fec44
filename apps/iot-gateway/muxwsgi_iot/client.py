"""`serve_client`: one connection, from CONNECT to its end. Reads packets and has the broker do what they ask.

The greenlet of the connection reads. What it answers goes through the link, as messages of others do, so the order is kept.
"""

import logging
import math
import time

from muxwsgi import Connection
from muxwsgi.errors import Draining, Expired
from muxwsgi.wire.ready import give_turn
from muxwsgi_iot.broker import Broker
from muxwsgi_iot.link import Link, Stream
from muxwsgi_iot.login import Access, Login
from muxwsgi_iot.mqtt import (
    NO_PROPERTIES,
    Ack,
    Auth,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    MQTTError,
    Packet,
    Ping,
    Property,
    Publish,
    Reason,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Version,
    encode,
)
from muxwsgi_iot.mqtt.encoder import encode_ack
from muxwsgi_iot.mqtt.properties import Kind
from muxwsgi_iot.mqtt.reasons import connack_code
from muxwsgi_iot.session import Session

__all__ = ["serve_client"]

log = logging.getLogger(__name__)

#: What a client may have done, in messages to subscribers, before others have a turn.
_WORK_PER_TURN = 2000

#: Bytes of a client identifier.
_LONGEST_ID = 1024

_PINGRESP = encode(Ping(is_response=True), Version.V311)


def serve_client(stream: Stream, connection: Connection, broker: Broker, login: Login) -> None:
    """Returns when the connection is over. Raises what the connection raises, if that was not expected."""
    decoder = Decoder(broker.options.limits())
    stream.set_deadline(time.monotonic() + broker.options.connect_timeout)
    client = _Client(stream, connection, broker, login)
    try:
        while not client.is_over:
            stream.set_resting(True)
            data = stream.read()
            stream.set_resting(False)
            if not data:
                if connection.draining.is_set():  # the server has closed a WebSocket because it stops
                    client.drained()
                return
            client.received(decoder, data)
    except MQTTError as error:
        client.refuse(error)
    except Draining:
        client.drained()
    except Expired:
        client.expired()
    except OSError:
        if not client.is_over:  # otherwise this side has closed it
            raise
    finally:
        client.left()


class _Client:
    def __init__(self, stream: Stream, connection: Connection, broker: Broker, login: Login) -> None:
        self._stream = stream
        self._connection = connection
        self._broker = broker
        self._login = login
        self._session: Session | None = None
        self._link: Link | None = None
        self._version: Version | None = None
        self._silence = math.inf  # seconds without a packet after which the client is gone
        self._aliases: dict[int, str] = {}
        self._is_clean = False
        self._refused = False
        self._asked_expiry = 0
        self._work = 0

    @property
    def is_over(self) -> bool:
        return self._refused or (self._link is not None and self._link.ended)

    def received(self, decoder: Decoder, data: bytes) -> None:
        """Do what the packets ask that `data` completes. Raises `MQTTError`."""
        broker = self._broker
        has_packet = False
        try:
            for packet in decoder.feed(data):
                has_packet = True
                if self._session is None:
                    self._version = decoder.version
                    self._connect(packet)
                else:
                    self._handle(packet, self._session)
                if self.is_over:
                    return
                self._work += 1
                if self._work >= _WORK_PER_TURN:
                    self._work = 0
                    broker.flush()
                    self._wait_for_room()
                    give_turn()
        finally:
            self._version = decoder.version
            broker.flush()
        if has_packet and self._silence != math.inf:
            self._stream.set_deadline(time.monotonic() + self._silence)
        self._wait_for_room()

    def _wait_for_room(self) -> None:
        if self._link is not None:
            self._link.wait_for_room()

    # CONNECT

    def _connect(self, packet: Packet) -> None:
        if not isinstance(packet, Connect):
            raise MQTTError(Reason.PROTOCOL_ERROR, "the first packet is not CONNECT")
        broker, options = self._broker, self._broker.options
        if Property.AUTHENTICATION_METHOD in packet.properties:
            raise MQTTError(Reason.BAD_AUTHENTICATION_METHOD, "enhanced authentication is not offered")  # section 4.12
        if len(packet.client_id.encode()) > _LONGEST_ID:
            raise MQTTError(Reason.CLIENT_IDENTIFIER_NOT_VALID, f"the client identifier has more than {_LONGEST_ID} bytes")
        is_v5 = packet.version is Version.V5
        if not packet.client_id and not is_v5 and not packet.clean_start:  # [MQTT-3.1.3-8] of 3.1.1
            raise MQTTError(Reason.CLIENT_IDENTIFIER_NOT_VALID, "a session that is kept needs a client identifier")
        access = self._login.admit(packet, self._connection)
        if broker.connections >= options.max_connections:
            broker.counters.drop("connections", packet.client_id)
            raise MQTTError(Reason.SERVER_BUSY, "too many connections")
        if packet.will is not None and not access.may_write(packet.will.topic):
            raise MQTTError(Reason.NOT_AUTHORIZED, "the topic of the will may not be written")
        session, is_present = broker.connect(packet, access.username)
        self._begin(packet, session, is_present, access)

    def _begin(self, packet: Connect, session: Session, is_present: bool, access: Access) -> None:
        broker, options = self._broker, self._broker.options
        link = Link(self._stream, packet.version, broker.dirty, options.max_queued_bytes)
        known = packet.properties
        session.may_read, session.may_write = access.readers(session.client_id)
        self._session, self._link = session, link
        link.max_packet = known.get(Property.MAXIMUM_PACKET_SIZE, 0xFFFFFFFF)
        link.allow_aliases(min(known.get(Property.TOPIC_ALIAS_MAXIMUM, 0), options.max_topic_alias))
        keep_alive = packet.keep_alive
        if link.is_v5 and not 0 < keep_alive <= options.max_keepalive:
            keep_alive = options.max_keepalive
        self._silence = keep_alive * 1.5 if keep_alive else math.inf  # [MQTT-3.1.2-22]
        self._stream.set_deadline(math.inf)
        self._asked_expiry = known.get(Property.SESSION_EXPIRY_INTERVAL, 0)
        answer: dict[Property, object] = {}
        if link.is_v5:
            if session.expiry != self._asked_expiry:
                answer[Property.SESSION_EXPIRY_INTERVAL] = int(session.expiry)
            if not packet.client_id:
                answer[Property.ASSIGNED_CLIENT_IDENTIFIER] = session.client_id  # [MQTT-3.1.3-6], [MQTT-3.2.2-16]
            if keep_alive != packet.keep_alive:
                answer[Property.SERVER_KEEP_ALIVE] = keep_alive
            answer[Property.RECEIVE_MAXIMUM] = options.max_inflight_messages
            answer[Property.MAXIMUM_PACKET_SIZE] = options.max_packet_size
            if options.max_topic_alias:
                answer[Property.TOPIC_ALIAS_MAXIMUM] = options.max_topic_alias
        link.put(encode(Connack(is_present, 0, answer), packet.version))  # before all else [MQTT-3.2.0-1]
        broker.joined(session, link, known.get(Property.RECEIVE_MAXIMUM, 65535))

    # Packets

    def _handle(self, packet: Packet, session: Session) -> None:
        link = self._link
        assert link is not None
        match packet:
            case Publish():
                self._publish(packet, session, link)
            case Ack(kind=Kind.PUBREL):
                reason = Reason.SUCCESS if packet.packet_id in session.incoming else Reason.PACKET_IDENTIFIER_NOT_FOUND
                session.incoming.discard(packet.packet_id)
                link.put(encode_ack(Kind.PUBCOMP, packet.packet_id, reason, NO_PROPERTIES, link.is_v5))  # [MQTT-4.3.3-11]
            case Ack():
                session.confirmed(packet, self._broker.now())
            case Subscribe():
                self._subscribe(packet, session, link)
            case Unsubscribe():
                codes = tuple(self._broker.unsubscribe_from(session, each) for each in packet.filters)
                link.put(encode(Unsuback(packet.packet_id, codes), link.version))  # [MQTT-3.10.4-4]
            case Ping(is_response=False):
                link.put(_PINGRESP)  # [MQTT-3.12.4-1]
            case Disconnect():
                self._disconnect(packet, session, link)
            case Auth():
                raise MQTTError(Reason.PROTOCOL_ERROR, "AUTH without an authentication method")
            case _:
                raise MQTTError(Reason.PROTOCOL_ERROR, f"a client may not send {type(packet).__name__.upper()}")

    def _publish(self, packet: Publish, session: Session, link: Link) -> None:
        if packet.properties:
            self._resolve(packet)
        broker, qos = self._broker, packet.qos
        if qos == 2:
            if packet.packet_id in session.incoming:  # [MQTT-4.3.3-10]: it was published already
                link.put(encode_ack(Kind.PUBREC, packet.packet_id, Reason.SUCCESS, NO_PROPERTIES, link.is_v5))
                return
            if link.is_v5 and len(session.incoming) >= broker.options.max_inflight_messages:  # [MQTT-3.3.4-9]
                raise MQTTError(Reason.RECEIVE_MAXIMUM_EXCEEDED, "more messages of QoS 2 are under way than the receive maximum")
        reason = broker.publish_from(session, packet)
        self._work += broker.last_count
        if not qos:
            return
        kind = Kind.PUBACK if qos == 1 else Kind.PUBREC
        if qos == 2 and (reason < 0x80 or not link.is_v5):
            session.incoming.add(packet.packet_id)
        link.put(encode_ack(kind, packet.packet_id, reason, NO_PROPERTIES, link.is_v5))  # [MQTT-3.3.4-1]

    def _resolve(self, packet: Publish) -> None:
        """Put the topic in the place of an alias (section 3.3.2.3.4), and refuse what only a server may send."""
        if Property.SUBSCRIPTION_IDENTIFIER in packet.properties:  # [MQTT-3.3.4-6]
            raise MQTTError(Reason.PROTOCOL_ERROR, "PUBLISH of a client with a subscription identifier")
        alias = packet.properties.get(Property.TOPIC_ALIAS)
        if alias is None:
            return
        if alias > self._broker.options.max_topic_alias:  # [MQTT-3.3.2-9]
            raise MQTTError(Reason.TOPIC_ALIAS_INVALID, f"topic alias {alias}")
        if packet.topic:
            self._aliases[alias] = packet.topic
        elif alias in self._aliases:
            packet.topic = self._aliases[alias]
        else:
            raise MQTTError(Reason.PROTOCOL_ERROR, f"topic alias {alias} was not set")

    def _subscribe(self, packet: Subscribe, session: Session, link: Link) -> None:
        broker = self._broker
        (identifier,) = packet.properties.get(Property.SUBSCRIPTION_IDENTIFIER, (0,))
        codes, retained = [], []
        for asked in packet.subscriptions:
            code, messages = broker.subscribe_from(session, asked, identifier, is_v5=link.is_v5)
            codes.append(int(code))
            retained += [(message, asked.qos) for message in messages]
        link.put(encode(Suback(packet.packet_id, tuple(codes)), link.version))  # [MQTT-3.8.4-1], -2, -6
        identifiers = (identifier,) if identifier else ()
        for message, qos in retained:
            # A newer one may have come while this greenlet waited for room.
            if broker.retained.get(message.topic) is message and not link.ended:
                session.deliver(message, min(qos, message.qos), True, identifiers, broker.now())  # [MQTT-3.3.1-8]
                broker.flush()
                link.wait_for_room()

    def _disconnect(self, packet: Disconnect, session: Session, link: Link) -> None:
        expiry = packet.properties.get(Property.SESSION_EXPIRY_INTERVAL)
        if expiry is not None:
            if expiry and not self._asked_expiry:  # section 3.14.2.2.2
                raise MQTTError(Reason.PROTOCOL_ERROR, "DISCONNECT keeps a session that CONNECT did not")
            session.expiry = float(min(expiry, self._broker.options.persistent_client_expiration))
        self._is_clean = packet.reason is not Reason.DISCONNECT_WITH_WILL
        link.end()

    # Ends

    def refuse(self, error: MQTTError) -> None:
        """Tell the client what was wrong, if its version can be told, and close."""
        log.info("%r: %s (%s)", self._connection, error, error.reason.name.lower())
        link = self._link
        if link is not None:
            link.end(error.reason, str(error))
            return
        self._refused = True
        self._broker.counters.refused += 1
        answer = self._refusal(error)
        if answer:
            self._stream.set_deadline(time.monotonic() + 5.0)
            try:
                self._stream.write(answer)
            except OSError as failed:
                log.debug("%r: %s", self._connection, failed)
        self._stream.close()

    def _refusal(self, error: MQTTError) -> bytes:
        """CONNACK with a reason. What is no MQTT at all gets none [MQTT-3.1.4-1]."""
        if self._version is Version.V5:
            return encode(Connack(False, error.reason, {Property.REASON_STRING: str(error)}), Version.V5)
        code = connack_code(error.reason)
        if code is None or (self._version is None and error.reason is not Reason.UNSUPPORTED_PROTOCOL_VERSION):
            return b""
        return encode(Connack(False, code), Version.V311)

    def expired(self) -> None:
        """No packet has come in time."""
        if self._link is not None:
            self._stream.set_deadline(time.monotonic() + 5.0)  # for the DISCONNECT
            self._link.end(Reason.KEEP_ALIVE_TIMEOUT)
        else:
            self._stream.close()

    def drained(self) -> None:
        """The server stops. The client is not lost, so its will is not published."""
        if self._session is not None and self._link is not None:
            self._session.will = None
            self._link.end(Reason.SERVER_SHUTTING_DOWN)
            self._link.finish()

    def left(self) -> None:
        session, link = self._session, self._link
        if session is not None and link is not None:
            if link.ended:
                link.finish()
            else:
                link.abandon()
            self._broker.left(session, link, is_clean=self._is_clean)
