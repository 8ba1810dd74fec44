"""The packets, as the decoder yields them and the encoder takes them."""

from dataclasses import dataclass
from enum import IntEnum

from muxwsgi_iot.mqtt.properties import NO_PROPERTIES, Kind, Properties
from muxwsgi_iot.mqtt.reasons import Reason

__all__ = [
    "Ack",
    "Auth",
    "Connack",
    "Connect",
    "Disconnect",
    "Packet",
    "Ping",
    "Publish",
    "Suback",
    "Subscribe",
    "SubscribeTo",
    "Unsuback",
    "Unsubscribe",
    "Version",
    "Will",
]


class Version(IntEnum):
    """The protocol level in CONNECT."""

    V311 = 4
    V5 = 5


@dataclass(slots=True)
class Will:
    """What the server publishes if the connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Connect:
    """`clean_start` is Clean Session in 3.1.1. `keep_alive` is in seconds, 0 for none."""

    client_id: str
    version: Version = Version.V5
    clean_start: bool = True
    keep_alive: int = 0
    will: Will | None = None
    username: str | None = None
    password: bytes | None = None
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Connack:
    """`code` is a `Reason` in version 5 and a return code in 3.1.1."""

    session_present: bool = False
    code: int = 0
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Publish:
    """`packet_id` is 0 with QoS 0. `topic` is empty if a topic alias stands for it."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Ack:
    """PUBACK, PUBREC, PUBREL or PUBCOMP, by `kind`."""

    kind: Kind
    packet_id: int
    reason: Reason = Reason.SUCCESS
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class SubscribeTo:
    """One subscription that is asked for. `retain_handling`: 0 send retained messages, 1 only if the subscription is new, 2 never."""

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(slots=True)
class Subscribe:
    packet_id: int
    subscriptions: tuple[SubscribeTo, ...]
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Suback:
    """`codes` are reasons; in 3.1.1 the QoS that is granted, or 0x80."""

    packet_id: int
    codes: tuple[int, ...]
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Unsubscribe:
    packet_id: int
    filters: tuple[str, ...]
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Unsuback:
    """`codes` are reasons; none in 3.1.1."""

    packet_id: int
    codes: tuple[int, ...] = ()
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Ping:
    """PINGREQ, or PINGRESP if `is_response`."""

    is_response: bool = False


@dataclass(slots=True)
class Disconnect:
    reason: Reason = Reason.SUCCESS
    properties: Properties = NO_PROPERTIES


@dataclass(slots=True)
class Auth:
    reason: Reason = Reason.SUCCESS
    properties: Properties = NO_PROPERTIES


Packet = Connect | Connack | Publish | Ack | Subscribe | Suback | Unsubscribe | Unsuback | Ping | Disconnect | Auth
