"""The codec of MQTT 3.1.1 and 5: bytes to packets and back. It does no I/O and knows no broker.

`Decoder` takes bytes in any cut and yields packets. `encode` makes bytes of a packet. Both ends of a connection can use them. What breaks
the standard raises `MQTTError` with the reason code that the standard has for it. Numbers such as [MQTT-3.1.0-1] are the normative
statements of the OASIS documents; those of version 5 are meant where both have one.
"""

from muxwsgi_iot.mqtt.decoder import Decoder, Limits
from muxwsgi_iot.mqtt.encoder import encode
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
from muxwsgi_iot.mqtt.properties import NO_PROPERTIES, Properties, Property
from muxwsgi_iot.mqtt.reasons import MQTTError, Reason

__all__ = [
    "Decoder",
    "Limits",
    "encode",
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
    "NO_PROPERTIES",
    "Properties",
    "Property",
    "MQTTError",
    "Reason",
]
