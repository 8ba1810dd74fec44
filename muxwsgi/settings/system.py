"""The process on its machine: pid file, user and group, umask."""

import re

from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.setting import check, setting
from muxwsgi.settings.sections import PROCESS

__all__ = ["SystemSettings"]


@record(kw_only=True)
class SystemSettings:
    """The process on its machine. Names and flags are gunicorn's."""

    pid: str | None = setting(
        None,
        "Write the process id of the master there, and lock the file while it runs: a second master on the same file does not start.",
        section=PROCESS,
        unit="FILE",
        flags=("-p",),
    )
    user: str | None = setting(
        None,
        "User of the workers, by name or number. The master stays root: it opens sockets, and runs no application.",
        section=PROCESS,
        unit="USER",
        flags=("-u",),
    )
    group: str | None = setting(
        None, "Group of the workers, by name or number. Default: the group of `user`.", section=PROCESS, unit="GROUP", flags=("-g",)
    )
    initgroups: bool = setting(
        False, "Give workers all groups that `user` is a member of. Otherwise they have one group.", section=PROCESS
    )
    umask: str | None = setting(
        None,
        "File mode creation mask of all processes, octal, as 027. Default: the mask that the process is started with.",
        section=PROCESS,
        unit="MASK",
        flags=("-m",),
    )
    proc_name: str | None = setting(
        None,
        "The name that `ps` shows behind the role of each process, as in `muxwsgi: worker 0 [NAME]`. Default: the application.",
        section=PROCESS,
        unit="NAME",
        flags=("-n", "--name"),
    )
    manual_upgrade: bool = setting(
        False,
        "After SIGUSR2 the old master goes on beside the new one, until it is told to end (WINCH, TERM), as in gunicorn. Otherwise it ends "
        "when the new one is ready.",
        section=PROCESS,
    )
    daemon: bool = setting(False, "Refused, with the reason: a service manager starts the server.", section=PROCESS, flags=("-D",))

    def __post_init__(self) -> None:
        check(self)
        if self.daemon:
            raise OperatorError(
                "daemon: the server stays in the foreground, so that its exit status and its errors are seen; let a service manager start "
                "it (docs/deployment.md), or start it by `setsid nohup`"
            )
        if self.initgroups and self.user is None:
            raise OperatorError("initgroups: it is for workers with another user (--user)")
        if self.umask is not None and not re.fullmatch(r"(0o)?[0-7]{1,4}", self.umask):
            raise OperatorError(f"umask: {self.umask!r} is not an octal number, as 027")

    @property
    def mask(self) -> int | None:
        """The umask as a number."""
        return None if self.umask is None else int(self.umask.removeprefix("0o"), 8)
