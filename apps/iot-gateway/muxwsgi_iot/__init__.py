"""An MQTT broker on the port of a web application, with a page and an API.

    muxwsgi run muxwsgi_iot:app --hijack-options '{"mqtt": {"allow_anonymous": true}}'

An application in the same process uses `broker`: `broker.publish("lamp/set", b"on")`, `broker.subscribe("lamp/#", print)`.
"""

from typing import Any

from muxwsgi_iot.hijacker import Gateway, broker, gateway, mqtt
from muxwsgi_iot.options import Options

__all__ = ["Gateway", "Options", "app", "broker", "gateway", "mqtt"]


def __getattr__(name: str) -> Any:
    """`app` is made when it is asked for: the hijacker alone needs no Flask."""
    if name == "app":
        from muxwsgi_iot.web import create_app

        globals()["app"] = made = create_app(gateway)
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
