"""The hub that a forked child leaves behind, and the one that it gets.

gevent's `reinit` keeps the loop with all that waits on it, so everything would go on in both processes. Here the child gets a fresh loop.
The old one cannot be unwound: its C frames lie below every greenlet that it started, and returning into them would call the callbacks that
are still due. So the old hub is never switched to again, and never freed.

What waits on no loop could still wake up: by an event or a queue that the child sets, by a kill, or because nothing refers to it any more,
which is an exception in it. Each would run code of a request that is the parent's. So a trace function, which greenlet calls in the target
of a switch before anything else runs there, switches back.

Sockets and locks that were made before the fork refer to the hub that they were made with. `AbandonedHub` passes on to the new hub what
these ask for, so that a database client that closes its inherited socket, or goes on using it, does what it does after any fork.
"""

from collections.abc import Callable, Iterable
from typing import Any

import greenlet
from gevent import get_hub
from gevent.hub import Hub, set_hub

__all__ = ["AbandonedHub", "abandon"]

_kept: set[greenlet.greenlet] = set()  # for ever


def abandon(hub: Hub) -> Hub:
    """In a child process: leave `hub`, which is this thread's, and return the new one. Not to be called by `hub` itself."""
    _kept.add(hub)
    hub.loop.destroy()  # before there is another one: libev has one loop that takes signals and waits for children
    set_hub(None)
    own = get_hub()
    if own.loop.default:
        own.loop.install_sigchld()  # as in the parent, before there is a child that could end unseen
    hub.loop = own.loop
    hub._resolver = hub._threadpool = None  # their threads are the parent's
    hub.__class__ = AbandonedHub
    return own


def refuse_others() -> None:
    """Let no greenlet run any more that has the abandoned hub for a parent. The one that forks has got another one before."""
    before = greenlet.gettrace()

    def trace(event: str, args: Any) -> None:
        origin, target = args
        if _is_parents(target):
            _kept.add(target)
            origin.switch()
        elif before is not None:
            before(event, args)

    greenlet.settrace(trace)


def _is_parents(target: greenlet.greenlet) -> bool:
    """Whether the abandoned hub has started `target`, or a greenlet that it has started has."""
    parent = target.parent
    while parent is not None:
        if type(parent) is AbandonedHub:
            return True
        parent = parent.parent
    return False


class AbandonedHub(Hub):  # type: ignore[misc]  # mypy is not shown its types
    """What a hub becomes in a child: everything is done by the child's own."""

    #: Locks and events look here whether the hub that they were last used with still runs.
    dead = True

    def switch(self, *args: Any, **kwargs: Any) -> Any:
        return get_hub().switch(*args, **kwargs)

    def wait(self, watcher: Any) -> None:
        """`watcher` is one of the old loop, where nothing starts any more: the same descriptor is watched by the new one."""
        hub = get_hub()
        if watcher.loop is hub.loop:
            hub.wait(watcher)
            return
        with hub.loop.io(watcher.fd, watcher.events) as own:
            hub.wait(own)

    def cancel_wait(self, watcher: Any, error: Any, close_watcher: bool = False) -> None:
        """Does nothing: the greenlets that waited are the parent's."""

    def cancel_waits_close_and_then(self, watchers: Iterable[Any], exc_kind: Any, then: Callable[..., Any], *then_args: Any) -> None:
        then(*then_args)

    def handle_error(self, context: Any, type: Any, value: Any, tb: Any) -> None:
        get_hub().handle_error(context, type, value, tb)
