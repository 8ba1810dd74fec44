"""The old hub of a forked child, and its replacement.

gevent's `reinit` keeps the loop and its watchers, so all greenlets would go on in both processes. Here the child gets a new loop. The old
one cannot be unwound: its C frames are below every greenlet that it started, and returning into them would call pending callbacks. So the
old hub is never switched to again, and never freed.

A greenlet that does not wait on the loop could still wake up: by an event or a queue that the child sets, by a kill, or by garbage
collection, which raises an exception in it. It would run code of a request of the parent. So a trace function switches back. greenlet calls
it in the target of a switch before any other code runs there.

Sockets and locks that were made before the fork refer to the old hub. `AbandonedHub` passes their calls on to the new hub. So a database
client can close its inherited socket, or go on using it, as after any fork.
"""

from collections.abc import Callable, Iterable
from typing import Any

import greenlet
from gevent import get_hub
from gevent.hub import Hub, set_hub

__all__ = ["AbandonedHub", "abandon"]

_kept: set[greenlet.greenlet] = set()  # never freed


def abandon(hub: Hub) -> Hub:
    """In a child process, replace this thread's `hub`, and return the new one. `hub` itself must not call it."""
    _kept.add(hub)
    hub.loop.destroy()  # before the new one is made, because only one loop of libev can handle signals and children
    set_hub(None)
    own = get_hub()
    if own.loop.default:
        own.loop.install_sigchld()  # as in the parent, before a child can end
    hub.loop = own.loop
    hub._resolver = hub._threadpool = None  # their threads do not exist in the child
    hub.__class__ = AbandonedHub
    return own


def refuse_others() -> None:
    """Stop all greenlets whose parent is the abandoned hub. The greenlet that forks has another parent by now."""
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
    """Whether the abandoned hub is a parent of `target`, directly or through other greenlets."""
    parent = target.parent
    while parent is not None:
        if type(parent) is AbandonedHub:
            return True
        parent = parent.parent
    return False


class AbandonedHub(Hub):  # type: ignore[misc]  # mypy is not shown its types
    """The class of the old hub in a child. It passes all calls on to the child's hub."""

    #: Locks and events check this to find out whether their hub still runs.
    dead = True

    def switch(self, *args: Any, **kwargs: Any) -> Any:
        return get_hub().switch(*args, **kwargs)

    def wait(self, watcher: Any) -> None:
        """`watcher` belongs to the old loop, which never runs again, so the new loop watches the same descriptor."""
        hub = get_hub()
        if watcher.loop is hub.loop:
            hub.wait(watcher)
            return
        with hub.loop.io(watcher.fd, watcher.events) as own:
            hub.wait(own)

    def cancel_wait(self, watcher: Any, error: Any, close_watcher: bool = False) -> None:
        """Does nothing, because the greenlets that waited belong to the parent."""

    def cancel_waits_close_and_then(self, watchers: Iterable[Any], exc_kind: Any, then: Callable[..., Any], *then_args: Any) -> None:
        then(*then_args)

    def handle_error(self, context: Any, type: Any, value: Any, tb: Any) -> None:
        get_hub().handle_error(context, type, value, tb)
