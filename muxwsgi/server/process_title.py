"""`ProcessTitle`: what `ps` shows of a process: its role, and the name that the operator has given the server. Imports no gevent.

Linux shows the memory in which the kernel has put the arguments (/proc/PID/cmdline, proc(5)), so the title is written there, as nginx and
PostgreSQL do it. It has room for as many bytes as the arguments had. Python has copied them before. `top` and `pgrep` show the name of the
main thread instead, which has 15 bytes (PR_SET_NAME, prctl(2)).
"""

import ctypes
import logging

__all__ = ["ProcessTitle"]

log = logging.getLogger("muxwsgi.error")

_PR_SET_NAME = 15

# /proc/self/stat, proc_pid_stat(5): fields 48 and 49, counted from the state, which is field 3
_ARG_START, _ARG_END = 48 - 3, 49 - 3


class ProcessTitle:
    """The title of this process and of those that it forks. Made by the master."""

    def __init__(self) -> None:
        self._start, self._length = 0, 0
        try:
            with open("/proc/self/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
            self._start = int(fields[_ARG_START])
            self._length = int(fields[_ARG_END]) - self._start
        except (OSError, IndexError, ValueError) as error:
            log.warning("proc_name: ps does not show the roles of processes: %s", error)

    def show(self, role: str, name: str) -> None:
        """Call this process `muxwsgi: role [name]`."""
        text = f"muxwsgi: {role} [{name}]"
        title = "".join(each if each.isprintable() else "?" for each in text).encode("utf-8", "replace")
        if self._start > 0 and self._length > 1:
            # The last byte stays 0. Otherwise the kernel would also show what follows, which is the environment.
            ctypes.memmove(self._start, title[: self._length - 1].ljust(self._length, b"\0"), self._length)
            ctypes.CDLL(None).prctl(_PR_SET_NAME, title[:15], 0, 0, 0)
