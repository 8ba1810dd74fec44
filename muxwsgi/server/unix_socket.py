"""Unix sockets that a bind opens: their file, with its mode and owner. This module imports no gevent.

Nobody can connect before `listen` is called. So mode and owner are set between `bind` and `listen`, and the umask of the process is not
changed for it: other threads of a program would create files with that umask meanwhile.
"""

import contextlib
import errno
import os
import socket
import stat

from muxwsgi.server.privileges import group_id, user_id
from muxwsgi.settings import BindSettings
from muxwsgi.wire.plain_socket import PlainSocket

__all__ = ["answers", "bound_to", "permit"]


def bound_to(bind: BindSettings) -> tuple[socket.socket, tuple[int, int]]:
    """A socket that is bound to the path of `bind`, and does not listen yet, and the device and inode of its file. The file of a server
    that was killed is removed before. Raises `OSError` and `OperatorError`."""
    path = bind.path
    assert path is not None
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode) and not answers(path):
            os.unlink(path)
    sock = PlainSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if bind.mode is not None:
            os.fchmod(sock.fileno(), bind.mode)  # Linux creates the file with this mode, less the umask (unix(7))
        sock.bind(path)
        information = os.lstat(path)
        inode = information.st_dev, information.st_ino
        try:
            permit(bind, inode)
        except BaseException:
            os.unlink(path)
            raise
    except BaseException:
        sock.close()
        raise
    return sock, inode


def permit(bind: BindSettings, inode: tuple[int, int]) -> None:
    """Give the socket's file the mode and the owner that `bind` names. Raises `OSError` and `OperatorError`."""
    if bind.mode is None and bind.user is None and bind.group is None:
        return
    assert bind.path is not None
    user = -1 if bind.user is None else user_id(bind.user, f"bind {bind.address}: user")
    group = -1 if bind.group is None else group_id(bind.group, f"bind {bind.address}: group")
    fd = os.open(bind.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)  # the file itself, whatever has its name in the next moment
    try:
        information = os.fstat(fd)
        if (information.st_dev, information.st_ino) != inode:
            raise OSError(errno.EEXIST, "another file has taken the socket's name")
        if (user, group) != (-1, -1):
            os.chown(f"/proc/self/fd/{fd}", user, group)
        if bind.mode is not None:
            os.chmod(f"/proc/self/fd/{fd}", bind.mode)
    finally:
        os.close(fd)


def answers(path: str) -> bool:
    """Whether a server listens on the socket at `path`."""
    with PlainSocket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # its backlog is full: unix(7) has no connection in progress
            return True
        return True
