"""A new master in place of the old one (SIGUSR2), for a new release of Python, of this package, or of the command line. Imports no gevent.

The old master starts the same command again (`sys.orig_argv`) with its listening sockets, and goes on meanwhile. The new one serves on
these sockets beside it. When its workers are ready, it says so through a socket pair, and the old master retires its workers and ends. If
the new one ends before, the old one goes on. With `manual_upgrade` both serve until one of them is told to end, as in gunicorn.

Workers that retire hand over their resting connections to the new workers (`server/handover.py`). So the new master inherits the queue for
that, and says on which binds its workers take over connections.

A variable of the environment says which descriptor is which socket. It is read once, and removed.

Until it is *promoted*, the new master removes no unix socket, and its pid file has another name (FILE.2), as in gunicorn. It is promoted
when its workers are ready, or, with `manual_upgrade`, when the old master has ended.
"""

import json
import os
import socket
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import cache
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.server.page import BINDS

__all__ = ["Inherited", "Successor", "inherited", "start_successor", "take_inherited"]

VARIABLE = "MUXWSGI_UPGRADE"

#: The messages of the new master: its workers serve in place of the old ones, or beside them. The words of their binds follow.
_READY, _BESIDE = b"R", b"B"

#: Bytes of such a message, at most.
_LONGEST = 1 + 8 * BINDS


@record()
class Inherited:
    """What a new master has from the old one.

    control     the socket pair's end
    sockets     the listening sockets: what does not change in a bind (see `binds.place`), and the descriptors
    passed      descriptors and names of the sockets that systemd has passed to the first master
    handover    the ends of the queue that workers of the old master put connections into
    """

    control: socket.socket
    sockets: tuple[tuple[tuple[Any, ...], tuple[int, ...]], ...]
    passed: tuple[tuple[int, str], ...]
    handover: tuple[socket.socket, socket.socket]

    def say_ready(self, binds: Iterable[int], *, beside: bool) -> None:
        """Tell the old master that this one serves, in its place or beside it, and on which `binds` workers take over connections. The old
        master may have ended."""
        try:
            self.control.send((_BESIDE if beside else _READY) + array("Q", binds).tobytes(), socket.MSG_NOSIGNAL)
        except OSError:
            pass


class Successor:
    """The new master, in the old one.

    binds       on which its workers take over connections (`server/handover.py`)
    """

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        self.pid = process.pid
        self.control = control
        self.binds: frozenset[int] = frozenset()
        process.returncode = 0  # the master reaps all its children itself

    def hear(self) -> bool | None:
        """True if it serves in place of this master, False if it has ended, None if it has said nothing, or serves beside this master."""
        try:
            said = self.control.recv(_LONGEST, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return False
        if not said:
            return False
        self.binds = frozenset(array("Q", said[1:]))
        return True if said[:1] == _READY else None


@cache
def inherited() -> Inherited | None:
    """What this process has from an old master; None if it is the first. The first call removes the variable. Raises `OperatorError`."""
    return take_inherited(os.environ)


def take_inherited(environ: MutableMapping[str, str]) -> Inherited | None:
    """Read the variable and remove it. Raises `OperatorError`."""
    text = environ.pop(VARIABLE, None)
    if text is None:
        return None
    try:
        found = json.loads(text)
        control = socket.socket(fileno=found["control"])
        sockets = tuple((tuple(place), tuple(map(int, fds))) for place, fds in found["sockets"])
        passed = tuple((int(fd), str(name)) for fd, name in found["passed"])
        out, into = map(int, found["handover"])
        handover = (socket.socket(fileno=out), socket.socket(fileno=into))
        for fd in (control.fileno(), out, into, *(fd for _, fds in sockets for fd in fds), *(fd for fd, _ in passed)):
            os.set_inheritable(fd, False)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise OperatorError(f"environment: {VARIABLE} is for the process that SIGUSR2 starts: {error}") from error
    return Inherited(control, sockets, passed, handover)


def start_successor(
    sockets: Sequence[tuple[tuple[Any, ...], Sequence[int]]],
    passed: Sequence[tuple[int, str]],
    kept: Sequence[int],
    handover: Sequence[int],
    *,
    folder: str,
    umask: int,
    environ: Mapping[str, str],
    start: Callable[..., "subprocess.Popen[bytes]"] = subprocess.Popen,
) -> Successor:
    """Start the command of this process again, in `folder`, with the sockets, the two ends of its queue `handover`, and the descriptors
    `kept` besides. Raises `OSError`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # it keeps messages apart
    described = {
        "control": theirs.fileno(),
        "sockets": [[list(place), list(fds)] for place, fds in sockets],
        "passed": list(passed),
        "handover": list(handover),
    }
    # Until the exec `Popen` blocks all signals in the child, and gives them their default actions, so the child takes none of the master's.
    try:
        process = start(
            sys.orig_argv,
            executable=sys.executable,
            pass_fds=(theirs.fileno(), *handover, *(fd for _, fds in sockets for fd in fds), *(fd for fd, _ in passed), *kept),
            cwd=folder,
            umask=umask,
            env={**environ, VARIABLE: json.dumps(described)},
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Successor(process, ours)
