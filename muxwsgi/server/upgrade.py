"""A new master in place of the old one (SIGUSR2), for a new release of Python, of this package, or of the command line. Imports no gevent.

The old master starts the same command again (`sys.orig_argv`) with its listening sockets, and goes on meanwhile. The new one serves on
these sockets beside it. When its workers are ready, it says so through a socket pair, and the old master retires its workers and ends. If
the new one ends before, the old one goes on. With `manual_upgrade` nothing is said: both serve until one of them is told to end, as in
gunicorn.

A variable of the environment says which descriptor is which socket. It is read once, and removed.

Until it is *promoted*, the new master removes no unix socket, and its pid file has another name (FILE.2), as in gunicorn. It is promoted
when its workers are ready, or, with `manual_upgrade`, when the old master has ended.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from muxwsgi.errors import OperatorError

__all__ = ["Inherited", "Successor", "inherited", "start_successor", "take_inherited"]

VARIABLE = "MUXWSGI_UPGRADE"

_READY = b"R"


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a new master has from the old one.

    control     the socket pair's end
    sockets     the listening sockets: what does not change in a bind (see `binds.place`), and the descriptors
    passed      descriptors and names of the sockets that systemd has passed to the first master
    """

    control: socket.socket
    sockets: tuple[tuple[tuple[Any, ...], tuple[int, ...]], ...]
    passed: tuple[tuple[int, str], ...]

    def say_ready(self) -> None:
        """Tell the old master that this one serves. It may have ended."""
        try:
            self.control.send(_READY, socket.MSG_NOSIGNAL)
        except OSError:
            pass


class Successor:
    """The new master, in the old one."""

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        self.pid = process.pid
        self.control = control
        process.returncode = 0  # the master reaps all its children itself

    def hear(self) -> bool | None:
        """True if it serves, False if it has ended, None if it has said nothing."""
        try:
            said = self.control.recv(16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return False
        return bool(said)


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
        for fd in (control.fileno(), *(fd for _, fds in sockets for fd in fds), *(fd for fd, _ in passed)):
            os.set_inheritable(fd, False)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise OperatorError(f"environment: {VARIABLE} is for the process that SIGUSR2 starts: {error}") from error
    return Inherited(control, sockets, passed)


def start_successor(
    sockets: Sequence[tuple[tuple[Any, ...], Sequence[int]]],
    passed: Sequence[tuple[int, str]],
    kept: Sequence[int],
    *,
    folder: str,
    umask: int,
    environ: Mapping[str, str],
    start: Callable[..., "subprocess.Popen[bytes]"] = subprocess.Popen,
) -> Successor:
    """Start the command of this process again, in `folder`, with the sockets, and the descriptors `kept` besides. Raises `OSError`."""
    ours, theirs = socket.socketpair()
    described = {"control": theirs.fileno(), "sockets": [[list(place), list(fds)] for place, fds in sockets], "passed": list(passed)}
    # Until the exec `Popen` blocks all signals in the child, and gives them their default actions, so the child takes none of the master's.
    try:
        process = start(
            sys.orig_argv,
            executable=sys.executable,
            pass_fds=(theirs.fileno(), *(fd for _, fds in sockets for fd in fds), *(fd for fd, _ in passed), *kept),
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
