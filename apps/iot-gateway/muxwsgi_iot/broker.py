"""`Broker`: sessions, subscriptions, retained messages and wills of one process. It does no I/O: links take what it sends.

Which subscribers a topic has is looked up once and kept as a `_Plan`, until a subscription changes. Subscribers with the same options get
the same bytes.
"""

import heapq
import itertools
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

import gevent

from muxwsgi_iot.counters import Counters
from muxwsgi_iot.link import READ_ON_BELOW, Link, flush_all
from muxwsgi_iot.local import LocalSubscriber
from muxwsgi_iot.message import Message
from muxwsgi_iot.mqtt import NO_PROPERTIES, Connect, MQTTError, Properties, Property, Publish, Reason, SubscribeTo, Version, Will
from muxwsgi_iot.mqtt.text import check_filter, check_topic, split_shared
from muxwsgi_iot.options import Options
from muxwsgi_iot.session import Session, Subscriber, Subscription
from muxwsgi_iot.topics import Group, RetainedTree, SubscriptionTree

__all__ = ["Broker"]

log = logging.getLogger(__name__)

#: Topics whose subscribers are kept.
_PLANS = 4096

#: Seconds between two looks at what has expired.
_TICK = 1.0

#: Turns after which expired messages that are retained or wait are looked for. They are not sent in any case.
_SWEEP_TURNS = 60

_NEVER = 0xFFFFFFFF


class _Plan:
    """The subscribers that get the messages of one topic.

    batches   subscribers with the same (qos, no_local, retain_as_published, identifiers)
    groups    shared subscriptions, with those of their members that may read the topic
    """

    __slots__ = ("batches", "groups", "size")

    def __init__(self) -> None:
        self.batches: dict[tuple[int, bool, bool, tuple[int, ...]], list[Subscriber]] = {}
        self.groups: list[tuple[Group, list[tuple[Subscriber, Subscription]]]] = []
        self.size = 0


class Broker:
    """counters     see `Counters`
    sessions     by client identifier
    retained     see `RetainedTree`
    dirty        links that have something to send
    connections  of clients that have logged in
    on_tick      called each second
    last_count   subscribers of the last message
    """

    def __init__(self, options: Options | None = None, *, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.counters = Counters()
        self.sessions: dict[str, Session] = {}
        self.retained = RetainedTree()
        self.dirty: list[Link] = []
        self._subscriptions = SubscriptionTree()
        self._plans: dict[str, _Plan] = {}
        self._timers: list[tuple[float, int]] = []
        self._due: dict[int, Callable[[], None]] = {}  # by the numbers in `_timers`; what is cancelled is missing here
        self._sequence = itertools.count()
        #: Numbers of timers, by the client identifiers of those that are away: of the end of their sessions, and of their wills.
        self._ends: dict[str, int] = {}
        self._wills: dict[str, int] = {}
        self._ticker: gevent.Greenlet[[], None] | None = None
        self._turns = 0
        self.options = options or Options()
        self.connections = 0
        self.last_count = 0
        self.on_tick: Callable[[], None] | None = None

    def configure(self, options: Options) -> None:
        """Sessions that there are already keep their limits."""
        self.options = options

    def start(self) -> None:
        """Begin to let sessions, wills and messages expire."""
        if self._ticker is None:
            self._ticker = gevent.spawn(self._tick)

    def stop(self) -> None:
        if self._ticker is not None:
            self._ticker.kill(block=False)
            self._ticker = None

    # For the application

    def publish(
        self, topic: str, payload: bytes | str, qos: int = 0, retain: bool = False, properties: Properties | None = None
    ) -> int:
        """Publish in the name of the application. Returns how many subscribers the message is for. An empty payload with `retain` removes
        the retained message. Raises `ValueError` for a topic with wildcards and the like. No access list is asked."""
        check_topic(topic, self.options.max_topic_levels)
        if qos not in (0, 1, 2):
            raise ValueError(f"there is no QoS {qos}")
        data = payload.encode() if isinstance(payload, str) else bytes(payload)
        message = Message(topic, data, qos, retain, properties or NO_PROPERTIES, now=self.now())
        count = self.route(message)
        self.flush()
        return count

    def subscribe(
        self, topic_filter: str, callback: Callable[[Message], Any], *, may_read: Callable[[str], bool] | None = None
    ) -> LocalSubscriber:
        """Have `callback` called with each message, retained ones first. Its messages come one after the other, in a greenlet of their own,
        so it may wait. Ends by `close()` of what is returned. Raises `ValueError` for a malformed filter."""
        self.check_filter(topic_filter)
        subscriber = LocalSubscriber(callback, self.counters, may_read, lambda: self._forget_local(topic_filter, subscriber))
        self.add_subscriber(topic_filter, subscriber, Subscription(topic_filter, 2, retain_as_published=True))
        if split_shared(topic_filter)[0] is None:
            now = self.now()
            for message in self.retained_for(topic_filter, subscriber):
                subscriber.deliver(message, message.qos, True, (), now)
        return subscriber

    def check_filter(self, topic_filter: str) -> None:
        """Raises `ValueError` for a malformed filter."""
        check_filter(topic_filter, self.options.max_topic_levels)

    def add_subscriber(self, topic_filter: str, subscriber: Subscriber, subscription: Subscription) -> None:
        """For a part of this process that takes messages in another way than `subscribe`."""
        self._subscriptions.add(topic_filter, subscriber, subscription)
        self._plans.clear()

    def _forget_local(self, topic_filter: str, subscriber: LocalSubscriber) -> None:
        self._subscriptions.remove(topic_filter, subscriber)
        self._plans.clear()

    # Messages

    def flush(self) -> None:
        """Send what was put into links since the last time."""
        flush_all(self.dirty)

    def route(self, message: Message, publisher: Session | None = None) -> int:
        """Give a message to its subscribers, and retain it if it asks for that. Returns their number. Nothing is sent before `flush`."""
        self.counters.received += 1
        self.last_count = 0
        if message.retain:
            self._retain(message)
        now = self.now()
        if message.expires_at <= now:
            self.counters.expired += 1
            return 0
        plan = self._plans.get(message.topic) or self._plan(message.topic)
        for (qos, no_local, as_published, identifiers), subscribers in plan.batches.items():
            retain = message.retain and as_published  # [MQTT-3.3.1-12], [MQTT-3.3.1-13]
            least = min(qos, message.qos)  # [MQTT-3.8.4-8]
            if least == 0:
                _send_to_all(message, subscribers, publisher if no_local else None, retain, identifiers, now)
                continue
            for subscriber in subscribers:
                if no_local and subscriber is publisher:  # [MQTT-3.8.3-3]
                    continue
                subscriber.deliver(message, least, retain, identifiers, now)
        for group, members in plan.groups:
            chosen, subscription = _choose(group, members)
            identifiers = (subscription.identifier,) if subscription.identifier else ()
            retain = message.retain and subscription.retain_as_published
            chosen.deliver(message, min(subscription.qos, message.qos), retain, identifiers, now)
        self.last_count = plan.size
        return plan.size

    def _plan(self, topic: str) -> _Plan:
        """A subscriber with several matching subscriptions gets one copy: with the highest QoS [MQTT-3.3.4-2] and all identifiers
        [MQTT-3.3.4-3], if one of the subscriptions is not `no_local`."""
        found: dict[Subscriber, list[Subscription]] = {}
        plan = _Plan()
        for node in self._subscriptions.match(topic):
            for subscriber, subscription in node.members.items():
                found.setdefault(subscriber, []).append(subscription)
            for group in node.groups.values():
                members = [each for each in group.members.items() if each[0].may_read(topic)]
                if members:
                    plan.groups.append((group, members))
        for subscriber, subscriptions in found.items():
            if subscriber.may_read(topic):
                key = (
                    max(each.qos for each in subscriptions),
                    all(each.no_local for each in subscriptions),
                    any(each.retain_as_published for each in subscriptions),
                    tuple(each.identifier for each in subscriptions if each.identifier),
                )
                plan.batches.setdefault(key, []).append(subscriber)
                plan.size += 1
        plan.size += len(plan.groups)
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        self._plans[topic] = plan
        return plan

    def forget_plans(self) -> None:
        """The access list has changed."""
        self._plans.clear()

    def _retain(self, message: Message) -> None:
        if not message.payload:  # [MQTT-3.3.1-6], [MQTT-3.3.1-7]
            self.retained.remove(message.topic)
            return
        old = self.retained.get(message.topic)
        count = self.retained.count + (old is None)
        size = self.retained.size + message.size - (old.size if old is not None else 0)
        if count > self.options.max_retained_messages or size > self.options.max_retained_bytes:
            self.retained.remove(message.topic)  # the old one is not the last value any more
            self.counters.drop("retained", message.client_id)
            return
        self.retained.put(message.kept())

    def retained_for(self, topic_filter: str, subscriber: Subscriber) -> list[Message]:
        """Retained messages that have not expired and that the subscriber may read, by topic."""
        now = self.now()
        found = [each for each in self.retained.match(topic_filter) if each.expires_at > now and subscriber.may_read(each.topic)]
        return sorted(found, key=lambda message: message.topic)

    def publish_from(self, session: Session, packet: Publish) -> Reason:
        """A client publishes. The reason is for PUBACK or PUBREC."""
        if not session.may_write(packet.topic):
            return Reason.NOT_AUTHORIZED
        message = Message(
            packet.topic, packet.payload, packet.qos, packet.retain, packet.properties, client_id=session.client_id, now=self.now()
        )
        return Reason.SUCCESS if self.route(message, session) else Reason.NO_MATCHING_SUBSCRIBERS

    # Subscriptions of clients

    def subscribe_from(self, session: Session, asked: SubscribeTo, identifier: int, *, is_v5: bool) -> tuple[int, list[Message]]:
        """The code for SUBACK, and the retained messages to send behind it."""
        share, topic_filter = split_shared(asked.filter)
        is_new = asked.filter not in session.subscriptions
        if is_new and len(session.subscriptions) >= self.options.max_subscriptions:
            self.counters.drop("subscriptions", session.client_id)
            return (Reason.QUOTA_EXCEEDED if is_v5 else 0x80), []
        if "+" not in topic_filter and "#" not in topic_filter and not session.may_read(topic_filter):
            return (Reason.NOT_AUTHORIZED if is_v5 else 0x80), []
        subscription = Subscription(asked.filter, asked.qos, asked.no_local, asked.retain_as_published, identifier)
        session.subscriptions[asked.filter] = subscription
        self._subscriptions.add(asked.filter, session, subscription)
        self._plans.clear()
        if share is not None or asked.retain_handling == 2 or (asked.retain_handling == 1 and not is_new):  # [MQTT-3.3.1-9] to -11
            return asked.qos, []
        return asked.qos, self.retained_for(topic_filter, session)

    def unsubscribe_from(self, session: Session, text: str) -> Reason:
        """The reason for UNSUBACK."""
        if session.subscriptions.pop(text, None) is None:
            return Reason.NO_SUBSCRIPTION_EXISTED
        self._subscriptions.remove(text, session)
        self._plans.clear()
        return Reason.SUCCESS

    # Sessions

    def connect(self, packet: Connect, username: str | None) -> tuple[Session, bool]:
        """The session for a client that has logged in, and whether it was there already. An older connection of the same client is closed
        [MQTT-3.1.4-3]. Raises `MQTTError` if there are too many sessions."""
        client_id = packet.client_id or self._new_client_id()
        old = self.sessions.get(client_id)
        if old is not None and old.username != username:
            if old.link is not None:
                raise MQTTError(Reason.CLIENT_IDENTIFIER_NOT_VALID, "another user is connected with this client identifier")
            self.end_session(old)  # its messages are not for this user
            old = None
        if old is not None:
            link = old.link
            if link is not None:
                self.leave(old, link, is_clean=False)
                link.end(Reason.SESSION_TAKEN_OVER)
            if packet.clean_start or self.sessions.get(client_id) is not old:
                self.end_session(old)
                old = None
        if old is None:
            if len(self.sessions) >= self.options.max_sessions:
                self.counters.drop("sessions", client_id)
                raise MQTTError(Reason.QUOTA_EXCEEDED, "too many sessions")
            session = self.sessions[client_id] = Session(client_id, self.options, self.counters)
        else:
            session = old
        self._cancel(self._ends, client_id)
        self._cancel(self._wills, client_id)  # [MQTT-3.1.3-9]
        session.username = username
        session.expiry = self.expiry_of(packet)
        session.will = packet.will
        session.will_delay = 0 if packet.will is None else packet.will.properties.get(Property.WILL_DELAY_INTERVAL, 0)
        session.connected_at = time.time()
        return session, old is not None

    def _new_client_id(self) -> str:
        while True:
            made = f"auto-{secrets.token_hex(8)}"
            if made not in self.sessions:  # [MQTT-3.1.3-6]
                return made

    def expiry_of(self, packet: Connect) -> float:
        """Seconds that the session outlives its connection."""
        if packet.version is Version.V5:
            asked = packet.properties.get(Property.SESSION_EXPIRY_INTERVAL, 0)
        else:
            asked = 0 if packet.clean_start else _NEVER
        return float(min(asked, self.options.persistent_client_expiration))

    def joined(self, session: Session, link: Link, receive_maximum: int) -> None:
        """`link` is the connection of `session` from now on. What waits for the client is sent."""
        self.connections += 1
        session.resume(link, receive_maximum, self.now())

    def left(self, session: Session, link: Link, *, is_clean: bool) -> None:
        """The greenlet of `link` ends."""
        self.connections -= 1
        self.leave(session, link, is_clean=is_clean)

    def leave(self, session: Session, link: Link, *, is_clean: bool) -> None:
        """The connection `link` is over. `is_clean` after a DISCONNECT that drops the will [MQTT-3.14.4-3]."""
        if session.link is not link:
            return  # it was taken over
        session.link = None
        self._plans.clear()
        if is_clean:
            session.will = None
        now = self.now()
        will = session.will
        if will is not None and session.will_delay and session.expiry:
            self._wills[session.client_id] = self._at(now + min(session.will_delay, session.expiry), lambda: self._late_will(session))
        else:
            self._publish_will(session)
        if session.expiry:
            self._ends[session.client_id] = self._at(now + session.expiry, lambda: self.end_session(session))
        else:
            self.end_session(session)
        self.flush()

    def _late_will(self, session: Session) -> None:
        self._wills.pop(session.client_id, None)
        self._publish_will(session)

    def _publish_will(self, session: Session) -> None:
        will, session.will = session.will, None
        if will is not None and session.may_write(will.topic):
            self.route(_message_of(will, session.client_id, self.now()), session)

    def end_session(self, session: Session) -> None:
        """Forget a session. A will that waits is published now [MQTT-3.1.2-8]."""
        if self.sessions.get(session.client_id) is not session:
            return
        del self.sessions[session.client_id]
        self._cancel(self._ends, session.client_id)
        if self._cancel(self._wills, session.client_id):
            self._publish_will(session)
        for text in session.subscriptions:
            self._subscriptions.remove(text, session)
        session.subscriptions = {}
        self._plans.clear()

    # Time

    def _at(self, when: float, do: Callable[[], None]) -> int:
        number = next(self._sequence)
        heapq.heappush(self._timers, (when, number))
        self._due[number] = do
        if len(self._timers) > 1024 and len(self._timers) > 2 * len(self._due):
            self._timers = [each for each in self._timers if each[1] in self._due]
            heapq.heapify(self._timers)
        return number

    def _cancel(self, timers: dict[str, int], client_id: str) -> bool:
        """Whether there was a timer."""
        number = timers.pop(client_id, None)
        return number is not None and self._due.pop(number, None) is not None

    def tick(self) -> None:
        """Do what is due."""
        if self.on_tick is not None:
            self.on_tick()
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            _, number = heapq.heappop(self._timers)
            do = self._due.pop(number, None)
            if do is not None:
                do()
        self._turns += 1
        if self._turns % _SWEEP_TURNS == 0:
            self._sweep(now)
        self.flush()

    def _sweep(self, now: float) -> None:
        for session in list(self.sessions.values()):
            session.drop_expired(now)
        for message in self.retained.match("#"):
            if message.expires_at <= now:
                self.retained.remove(message.topic)
                self.counters.expired += 1

    def _tick(self) -> None:
        while True:
            gevent.sleep(_TICK)
            self.tick()


def _send_to_all(
    message: Message, subscribers: list[Subscriber], without: Session | None, retain: bool, identifiers: tuple[int, ...], now: float
) -> None:
    """QoS 0: as `deliver` of each, in a short loop. The bytes are looked up once for each version, and not for each subscriber."""
    forms: dict[Version, bytes] = {}
    for subscriber in subscribers:
        link = subscriber.link
        if link is None or link.uses_aliases or link.behind > READ_ON_BELOW:
            if subscriber is not without:
                subscriber.deliver(message, 0, retain, identifiers, now)
            continue
        data = forms.get(link.version)
        if data is None:
            data = forms[link.version] = message.parts(link.version, 0, retain, identifiers, now)[0]
        if len(data) > link.max_packet:
            subscriber.counters.drop("too-large", subscriber.client_id)
        elif subscriber is not without:
            link.put(data)
            subscriber.counters.sent += 1


def _choose(group: Group, members: list[tuple[Subscriber, Subscription]]) -> tuple[Subscriber, Subscription]:
    """The next member in turn that is connected; if none is, the next one that keeps messages."""
    group.turn += 1
    start = group.turn % len(members)
    for at in range(len(members)):
        candidate = members[(start + at) % len(members)]
        if candidate[0].is_online:
            return candidate
    return members[start]


def _message_of(will: Will, client_id: str, now: float) -> Message:
    properties: Properties = {known: value for known, value in will.properties.items() if known != Property.WILL_DELAY_INTERVAL}
    return Message(will.topic, will.payload, will.qos, will.retain, properties, client_id=client_id, now=now)
