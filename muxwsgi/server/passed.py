"""Listening sockets that another process has opened and passes to this one (sd_listen_fds(3)): systemd, `systemd-socket-activate`, s6.

The variables LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES say which they are. They are read once, and removed, so that no child takes them
for its own. The descriptors are closed at an exec. This module imports no gevent.
"""

import fcntl
import os
from collections.abc import MutableMapping, Sequence
from functools import cache

from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.server.upgrade import inherited

__all__ = ["PassedSocket", "expand_binds", "is_passed", "passed_sockets", "take_passed"]

#: The first descriptor that is passed (SD_LISTEN_FDS_START).
FIRST = 3

_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


#: Descriptors that were passed. They stay open until the process ends.
_taken: set[int] = set()


@record()
class PassedSocket:
    """A descriptor that was passed. `name` is its FileDescriptorName= in a socket unit, which is the unit's name by default."""

    fd: int
    name: str


@cache
def passed_sockets() -> tuple[PassedSocket, ...]:
    """The sockets that were passed to this process, or to the master in whose place it was started. The first call removes the variables.
    Raises `OperatorError`."""
    before = inherited()
    if before is None:
        return take_passed(os.environ)
    _taken.update(fd for fd, _ in before.passed)
    return tuple(PassedSocket(fd, name) for fd, name in before.passed)


def take_passed(environ: MutableMapping[str, str]) -> tuple[PassedSocket, ...]:
    """Read the variables of `environ` and remove them. Empty if they are for another process. Raises `OperatorError`."""
    found = {name: environ.pop(name, "") for name in _VARIABLES}
    if found["LISTEN_PID"] != str(os.getpid()):
        return ()
    count = found["LISTEN_FDS"]
    if not count.isascii() or not count.isdigit():
        raise OperatorError(f"environment: LISTEN_FDS: {count!r} is not a number")
    names = found["LISTEN_FDNAMES"].split(":") if found["LISTEN_FDNAMES"] else []
    if names and len(names) != int(count):
        raise OperatorError(f"environment: LISTEN_FDNAMES has {len(names)} names, and LISTEN_FDS is {count}")
    sockets = tuple(
        PassedSocket(fd, names[fd - FIRST] if names else "unknown")  # the name that sd_listen_fds_with_names gives
        for fd in range(FIRST, FIRST + int(count))
    )
    for each in sockets:
        try:
            fcntl.fcntl(each.fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        except OSError as error:
            raise OperatorError(f"environment: LISTEN_FDS is {count}: descriptor {each.fd}: {error.strerror}") from error
    _taken.update(each.fd for each in sockets)
    return sockets


def is_passed(fd: int) -> bool:
    """Whether `fd` is one of the sockets that `take_passed` has found."""
    return fd in _taken


def expand_binds(texts: Sequence[str], passed: Sequence[PassedSocket]) -> list[str]:
    """`fd://NAME` replaced by `fd://N` for each socket of that name: a socket unit with several addresses has one name for all.

    Raises `OperatorError` if no socket has the name.
    """
    expanded = []
    for text in texts:
        address, comma, options = text.partition(",")
        name = address.removeprefix("fd://")
        if name == address or name.isdecimal():
            expanded.append(text)
            continue
        numbers = [each.fd for each in passed if each.name == name]
        if not numbers:
            names = sorted({each.name for each in passed})
            raise OperatorError(
                f"bind {text!r}: no socket of that name was passed to this process"
                + (f"; passed: {', '.join(names)}" if names else " (LISTEN_FDS, by systemd for example)")
            )
        expanded += [f"fd://{number}{comma}{options}" for number in numbers]
    return expanded
