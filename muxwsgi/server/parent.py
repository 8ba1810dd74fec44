"""How a process ends if its master is killed (`kill -9`, or for memory). Imports no gevent.

Linux sends a signal of a process's choice when its parent ends (PR_SET_PDEATHSIG).

`die_with` chooses SIGKILL: for the admin process, for a preloader, and for a worker until it serves. They have nothing to lose.

A worker that serves has requests under way. Its event loop watches the pipe to the master, and ends gracefully when nobody can read it. But
the event loop may be blocked, by C code that holds the GIL. Then no Python runs: neither a handler of `signal`, nor the code that would
set a timer. So `die_after` chooses a signal whose handler is the C function alarm(2) itself, without Python between. A handler is called
with the number of the signal, and alarm takes that as seconds. So signal 40 means: SIGALRM in 40 s, which nobody handles, and which ends
the process. alarm(2) is among the functions that a handler may call (signal-safety(7)). An event loop that runs replaces this timer by one
of its own (`cli/place.py`).

What was rejected: a timer in the kernel that each heartbeat moves on would also kill all workers of a container that was paused. A guard
process could be killed as well, and costs memory. A thread that waits for the master makes each fork of an application one of a process
with threads, which Python warns of.

An application that handles SIGALRM in Python gets that signal instead.
"""

import ctypes
import logging
import math
import os
import signal

__all__ = ["die_after", "die_with"]

log = logging.getLogger("muxwsgi.error")

#: prctl(2): the signal that this process gets when its parent ends.
_PR_SET_PDEATHSIG = 1

#: Signals that nothing else uses: those below are libc's, and the questions of `heartbeat.py`. So a blocked worker has 37 to 64 seconds.
_FIRST, _LAST = signal.SIGRTMIN + 3, signal.SIGRTMAX


def die_with(parent: int) -> None:
    """Let Linux kill this process when its parent ends. If that has ended already, exit.

    The kernel forgets it when a process changes its user (prctl(2)). Such a process calls it again."""
    _ask_for(signal.SIGKILL, parent)


def die_after(parent: int, seconds: float) -> None:
    """From now on, let Linux end this process so many seconds after the end of its parent, rounded to what a signal can say. If that has
    ended already, exit."""
    number = min(max(math.ceil(seconds), _FIRST), _LAST)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(number, ctypes.cast(libc.alarm, ctypes.c_void_p))
    _ask_for(number, parent)


def _ask_for(number: int, parent: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        log.warning("prctl: %s: this process may go on when its master is killed", os.strerror(ctypes.get_errno()))
    if os.getppid() != parent:
        os._exit(1)
