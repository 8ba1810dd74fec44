"""`Message`: what was published. It is encoded once for each form in which clients get it, however many they are."""

import math

from muxwsgi_iot.mqtt import NO_PROPERTIES, Properties, Property, Publish, Version
from muxwsgi_iot.mqtt.encoder import publish_parts

__all__ = ["Message", "repeated"]

#: What a server does not pass on: it concerns one connection. The expiry is written anew, with what is left.
_NOT_PASSED_ON = (Property.TOPIC_ALIAS, Property.SUBSCRIPTION_IDENTIFIER, Property.MESSAGE_EXPIRY_INTERVAL)

#: Forms that are kept. With an expiry or many subscription identifiers there could be any number.
_FORMS = 16

_DUP = 8


class Message:
    """topic, payload, qos, retain   as published
    properties                    that are passed on
    expires_at                    seconds of the broker's clock, infinite without an expiry
    client_id                     who published it; "" for the application
    size                          bytes of topic and payload
    """

    __slots__ = ("_forms", "client_id", "expires_at", "payload", "properties", "qos", "retain", "size", "topic")

    def __init__(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
        *,
        client_id: str = "",
        now: float = 0.0,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.client_id = client_id
        self.size = len(topic) + len(payload)
        self.expires_at = math.inf
        if properties:
            if Property.MESSAGE_EXPIRY_INTERVAL in properties:
                self.expires_at = now + properties[Property.MESSAGE_EXPIRY_INTERVAL]
            # User properties keep their order [MQTT-3.3.2-18], and the others are unaltered [MQTT-3.3.2-4], -15, -16, -20.
            properties = {known: value for known, value in properties.items() if known not in _NOT_PASSED_ON}
        self.properties: Properties = properties or NO_PROPERTIES
        self._forms: dict[object, tuple[bytes, bytes]] = {}

    def parts(
        self, version: Version, qos: int, retain: bool, identifiers: tuple[int, ...], now: float, alias: int = 0, by_alias: bool = False
    ) -> tuple[bytes, bytes]:
        """The bytes of PUBLISH before the packet identifier and behind it. For QoS 0 all are in the first.

        `alias` goes along, if it is not 0; with `by_alias`, instead of the topic.
        """
        left = -1 if self.expires_at == math.inf else max(0, int(self.expires_at - now))
        form = (version, qos, retain, identifiers, left, alias, by_alias)
        found = self._forms.get(form)
        if found is None:
            found = self._encode(version, qos, retain, identifiers, left, alias, by_alias)
            if len(self._forms) >= _FORMS:
                self._forms.clear()
            self._forms[form] = found
        return found

    def _encode(
        self, version: Version, qos: int, retain: bool, identifiers: tuple[int, ...], left: int, alias: int, by_alias: bool
    ) -> tuple[bytes, bytes]:
        properties = self.properties
        if left >= 0 or identifiers or alias:
            more: dict[Property, object] = dict(properties)
            if left >= 0:
                more[Property.MESSAGE_EXPIRY_INTERVAL] = left  # [MQTT-3.3.2-6]
            if identifiers:
                more[Property.SUBSCRIPTION_IDENTIFIER] = list(identifiers)
            if alias:
                more[Property.TOPIC_ALIAS] = alias
            properties = more
        before, after = publish_parts(Publish("" if by_alias else self.topic, self.payload, qos, retain, properties=properties), version)
        return (before, after) if qos else (before + after, b"")

    def kept(self) -> "Message":
        """A copy to retain: the forms of the original go with it."""
        copy = Message(self.topic, self.payload, self.qos, True, self.properties, client_id=self.client_id)
        copy.expires_at = self.expires_at
        return copy


def repeated(before: bytes) -> bytes:
    """The first part of a PUBLISH, with DUP [MQTT-3.3.1-1]."""
    return bytes((before[0] | _DUP,)) + before[1:]
