"""An `Events` for tests of one engine or mux."""

from collections.abc import Callable
from typing import Any

from muxwsgi.events import Events

__all__ = ["subscribed"]


def subscribed(**subscribers: Callable[..., Any]) -> Events:
    """Events whose subscribers are given by the names of the events."""
    events = Events()
    events.subscribe(**subscribers)
    return events
