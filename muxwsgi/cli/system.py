"""`System`: the pid file, the identity and the umask of a generation of workers, for the master of a command. Imports no gevent."""

import contextlib
import logging
import os
from collections.abc import Mapping
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.server.pid_file import PidFile
from muxwsgi.server.privileges import Identity, identity_of
from muxwsgi.setting import from_options
from muxwsgi.settings import SystemSettings

__all__ = ["PID_SUFFIX", "System", "current_umask", "shown_name"]

log = logging.getLogger("muxwsgi.error")

#: The end of a new master's pid file, while the old one has the name.
PID_SUFFIX = ".2"

#: Options that name a log which workers write.
_LOGS = ("error_logfile", "access_logfile", "stream_logfile")


@record()
class System:
    """What workers of one generation get from the machine.

    logs        the files that the master creates for them, because they may not create files in that folder
    """

    identity: Identity | None
    umask: int
    pid_file: PidFile | None
    logs: tuple[str, ...]
    manual_upgrade: bool

    @classmethod
    def made(cls, values: Mapping[str, Any], umask: int, before: "System | None" = None, pid_suffix: str = "") -> "System":
        """Apply the options: the process has the umask after that, and the pid file exists. `umask` is the one that the process was started
        with, and `pid_suffix` the end of the pid file's name. Of `before` the pid file is used if it has the same name. Raises
        `OperatorError`."""
        settings = from_options(SystemSettings, values)
        identity = identity_of(settings)
        mask = umask if settings.mask is None else settings.mask
        os.umask(mask)
        pid_file = None if before is None else before.pid_file
        if settings.pid is None:
            pid_file = None
        elif pid_file is None or pid_file.path != settings.pid + pid_suffix:
            pid_file = PidFile(settings.pid + pid_suffix)
        logs = tuple(values[name] for name in _LOGS if values[name] not in (None, "-"))
        system = cls(identity, mask, pid_file, logs, settings.manual_upgrade)
        system.give_logs()
        return system

    def say_stale(self) -> None:
        """Log that the process which had the pid file before has not removed it."""
        if self.pid_file is not None and self.pid_file.stale is not None:
            log.info("pid: %s: the process %d has ended without removing the file", self.pid_file.path, self.pid_file.stale)

    def give_logs(self) -> None:
        """Create the logs that do not exist for the user of the workers, before anybody opens them. An error is left to the log that is
        opened next, which reports it."""
        if self.identity is not None:
            for path in self.logs:
                with contextlib.suppress(OSError):
                    self.identity.give_new_file(path)

    def promote(self) -> None:
        """Give the pid file the name that the option says, because the old master has given it up."""
        if self.pid_file is not None and self.pid_file.path.endswith(PID_SUFFIX):
            try:
                self.pid_file.rename(self.pid_file.path.removesuffix(PID_SUFFIX))
            except OSError as error:
                log.error("pid: %s: it keeps this name: %s", self.pid_file.path, error.strerror)

    def enter(self) -> None:
        """Let workers that are forked from now on inherit the umask."""
        os.umask(self.umask)

    def become_worker(self) -> bool:
        """In a worker: give up what only the master has. Returns whether the user or the group has changed. Raises `OperatorError`."""
        if self.pid_file is not None:
            self.pid_file.close()
        if self.identity is None:
            return False
        try:
            self.identity.take()
        except OSError as error:
            raise OperatorError(f"user: the worker cannot change its identity: {error.strerror}") from error
        return True

    def close(self, kept: "System | None" = None) -> None:
        """Remove the pid file, unless `kept` uses it."""
        if self.pid_file is not None and (kept is None or kept.pid_file is not self.pid_file):
            self.pid_file.remove()


def current_umask() -> int:
    """The umask of this process. No other thread runs."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def shown_name(values: Mapping[str, Any]) -> str:
    """The name of the server in the titles of its processes."""
    return values["proc_name"] or values["wsgi_app"] or "proxy"
