"""Waiting for a turn: connections above the limits of a route."""

from typing import TYPE_CHECKING

from gevent import sleep
from gevent.event import Event

from muxwsgi.wire.syscalls import clock

if TYPE_CHECKING:
    from muxwsgi.mux.quota import Quota
    from muxwsgi.mux.route import Route
    from muxwsgi.wire.connection import Connection

__all__ = ["awaited", "has_waited"]


def awaited(connection: "Connection", quota: "Quota", wait: float) -> str | None:
    """Wait for up to `wait` seconds for the turn that `quota` gives. Returns why there is none."""
    taken = quota.take(connection.client, clock(), wait)
    if isinstance(taken, str):
        return taken
    if taken:
        try:
            sleep(taken)
        except BaseException:
            quota.free(connection.client)
            raise
    return None


def has_waited(connection: "Connection", route: "Route") -> bool:
    """Whether the connection has a slot of the route after it has waited in line for up to `limit_wait` seconds. Without one, its part of
    the quota is given back."""
    waited = False
    try:
        waited = _wait_for_slot(route)
    finally:
        if not waited and route.slots.quota is not None:
            route.slots.quota.free(connection.client)
    return waited


def _wait_for_slot(route: "Route") -> bool:
    """True when this connection has a slot."""
    if not route.limit_wait:
        return False
    slots = route.slots
    turn = Event()
    slots.waiting.append(turn)
    try:
        turn.wait(route.limit_wait)
        return bool(turn.is_set())
    except BaseException:
        if turn.is_set():  # killed just after the slot was passed on to it
            slots.free()
        raise
    finally:
        if not turn.is_set():
            slots.waiting.remove(turn)
