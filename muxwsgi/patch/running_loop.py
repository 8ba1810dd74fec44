"""asyncio's running loop, by greenlet.

asyncio keeps one running loop per thread of the kernel, in C. All greenlets of a server share one thread, so while one of them is within
`asyncio.run`, others are told that they run in an event loop: their `asyncio.run` raises, Django's ORM refuses to work, and a future that a
worker thread completes is taken for one of the same loop. Each greenlet is to its asyncio what a thread is.

asyncio has the same functions in Python, for interpreters without the C module, and they keep the loop in a `threading.local`. These are
put in their place, over a local of greenlets.

- Tasks and futures stay those in C: in Python 3.11 to 3.13 they know the current task by its loop. A future that is made without a loop
  asks C for the running one, which finds none, and then the policy, which therefore answers with the running loop first.
- Since Python 3.14 tasks in C keep the current task by thread as well, and refuse to run in a loop that C does not know as the running
  one. Nothing is changed there, so asyncio works while one request at a time uses it, as it does without this module.
"""

import sys
from typing import Any

__all__ = ["is_patched", "patch_asyncio"]

#: The functions in Python, by the names that asyncio has given them for its own tests.
_IN_PYTHON = {
    "_get_running_loop": "_py__get_running_loop",
    "_set_running_loop": "_py__set_running_loop",
    "get_running_loop": "_py_get_running_loop",
    "get_event_loop": "_py_get_event_loop",
}


def is_patched() -> bool:
    """Whether each greenlet has its own running loop."""
    events = sys.modules.get("asyncio.events")
    return getattr(events, "_muxwsgi", False)


def patch_asyncio() -> bool:
    """Give each greenlet a separate running loop in this process. Returns whether that was possible.

    To be called before modules that do `from asyncio import get_running_loop` are imported. Idempotent. The names are private to asyncio:
    where one of them is missing nothing is changed, and a test fails.
    """
    if is_patched():
        return True
    import asyncio
    from asyncio import tasks

    events: Any = asyncio.events
    policy = getattr(events, "BaseDefaultEventLoopPolicy", None)
    if (
        sys.version_info >= (3, 14)
        or policy is None
        or not hasattr(events, "_running_loop")
        or not all(hasattr(events, name) for name in _IN_PYTHON.values())
        or not hasattr(policy, "_Local")
    ):
        return False
    from gevent.local import local

    class RunningLoop(local):  # type: ignore[misc]  # mypy is not shown its type
        loop_pid: tuple[Any, int | None] = (None, None)

    class CurrentLoop(local):  # type: ignore[misc]
        _loop = None
        _set_called = False

    replaced: dict[str, Any] = {name: getattr(events, in_python) for name, in_python in _IN_PYTHON.items()}
    until_3_11 = getattr(events, "_py__get_event_loop", None)
    if until_3_11 is not None:
        replaced["_get_event_loop"] = until_3_11
    events._running_loop = RunningLoop()
    for name, function in replaced.items():
        setattr(events, name, function)
        if hasattr(asyncio, name):
            setattr(asyncio, name, function)
    current_task = getattr(tasks, "_py_current_task", None)  # since Python 3.12: C's asks C for the loop
    if current_task is not None:
        tasks.current_task = asyncio.current_task = current_task
    _patch_policy(policy, CurrentLoop)
    events._muxwsgi = True
    return True


def _patch_policy(policy: Any, current_loop: type) -> None:
    """Make policies answer with the running loop where there is one, and keep the current one by greenlet as well."""
    from asyncio import events

    get_event_loop = policy.get_event_loop

    def running_or_current(self: Any) -> Any:
        running = events._get_running_loop()
        return get_event_loop(self) if running is None else running

    running_or_current.__doc__ = get_event_loop.__doc__
    policy.get_event_loop = running_or_current
    policy._Local = current_loop
    made = getattr(events, "_event_loop_policy", None)
    if isinstance(made, policy) and hasattr(made, "_local"):  # it was asked for before
        made._local = current_loop()
