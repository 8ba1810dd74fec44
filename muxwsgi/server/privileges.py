"""`Identity`: the user and group of the workers. The master stays root, as in gunicorn and nginx. This module imports no gevent.

A worker changes its identity right after the fork, before it loads an application: first its groups, then the group, then the user, because
a process that is not root any more may not change groups. The kernel then clears all capabilities of the process (capabilities(7)), and the
signal that it gets when its parent dies (PR_SET_PDEATHSIG), which has to be set again.

Without `initgroups` a worker keeps no supplementary group. gunicorn leaves it those of root there.
"""

import contextlib
import errno
import grp
import os
import pwd

from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.settings.system import SystemSettings

__all__ = ["Identity", "group_id", "identity_of", "user_id"]

#: linux/capability.h
_CAP_SETGID, _CAP_SETUID = 6, 7


@record()
class Identity:
    """User, group and supplementary groups, as numbers."""

    user: int
    group: int
    groups: tuple[int, ...]

    def take(self) -> None:
        """Become this user, for good. Raises `OSError`."""
        os.setgroups(self.groups)
        os.setresgid(self.group, self.group, self.group)
        os.setresuid(self.user, self.user, self.user)
        if self.user != 0:
            with contextlib.suppress(PermissionError):
                os.setuid(0)
                raise OSError(errno.EPERM, "the process can become root again")

    def give_new_file(self, path: str) -> None:
        """Create `path` for this user, so that workers can write a log that the master opens first. A file that exists keeps its owner.

        Only a new file is given away: in a folder that the user can write, an existing name could be a link to any file. Raises `OSError`.
        """
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except FileExistsError:
            return
        try:
            os.fchown(fd, self.user, self.group)
        finally:
            os.close(fd)


def identity_of(settings: SystemSettings) -> Identity | None:
    """The identity of workers; None if they keep that of the master. Raises `OperatorError`: unknown names, or no right to change."""
    if settings.user is None and settings.group is None:
        return None
    user = os.geteuid() if settings.user is None else user_id(settings.user, "user")
    if settings.group is not None:
        group = group_id(settings.group, "group")
    elif settings.user is None:
        group = os.getegid()
    else:
        group = _own_group(settings.user, user)
    groups: tuple[int, ...] = (group,)
    if settings.initgroups:
        name = _name_of(user)
        if name is None:
            raise OperatorError(f"initgroups: the user {settings.user} has no entry in the user database, which lists groups by name")
        groups = tuple(os.getgrouplist(name, group))
    if (user, group) == (os.geteuid(), os.getegid()) == (os.getuid(), os.getgid()) and not settings.initgroups and user != 0:
        return None  # the service manager has started the process as this user
    if not _may_change():
        who = _name_of(os.geteuid()) or str(os.geteuid())
        raise OperatorError(f"{'group' if settings.user is None else 'user'}: only root can give workers another identity; this is {who}")
    return Identity(user, group, groups)


def user_id(text: str, where: str) -> int:
    """The number of a user that is given by name or number. Raises `OperatorError`, which begins with `where`."""
    if text.isascii() and text.isdigit():
        return _number(text, where)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise OperatorError(f"{where}: there is no user {text!r}") from None


def group_id(text: str, where: str) -> int:
    """The number of a group that is given by name or number. Raises `OperatorError`, which begins with `where`."""
    if text.isascii() and text.isdigit():
        return _number(text, where)
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        raise OperatorError(f"{where}: there is no group {text!r}") from None


def _number(text: str, where: str) -> int:
    number = int(text)
    if number >= 2**32 - 1:  # the largest number means "unchanged" to the kernel
        raise OperatorError(f"{where}: {text} is too large")
    return number


def _own_group(text: str, user: int) -> int:
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        raise OperatorError(f"group: the user {text} has no entry in the user database, so name a group too (--group)") from None


def _name_of(user: int) -> str | None:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return None


def _may_change() -> bool:
    """Whether this process has CAP_SETUID and CAP_SETGID. Root may lack them in a container."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                effective = int(line.split()[1], 16)
                return all(effective >> capability & 1 for capability in (_CAP_SETGID, _CAP_SETUID))
    return os.geteuid() == 0
