"""`PidFile`: the process id of the master, in a file that it locks while it runs. This module imports no gevent.

The lock is a POSIX record lock (fcntl(2), F_SETLK), and decides whether a file is stale: the kernel gives it up when the process ends, and
a child does not inherit it. To ask instead whether a process with the id in the file exists would be wrong: after a crash another program
may have that id, and in a container it is 1 each time.

Such a lock ends when the process closes any descriptor of the file. So the file stays open, and is read by this descriptor only.
"""

import contextlib
import errno
import fcntl
import logging
import os
import stat

from muxwsgi.errors import OperatorError

__all__ = ["PidFile"]

log = logging.getLogger("muxwsgi.error")


class PidFile:
    """The file `path`, which this process owns.

    stale       the process id that the file had before, of a process that has ended without removing it; None if there was none
    """

    def __init__(self, path: str) -> None:
        """Lock the file, and write the id of this process. Raises `OperatorError`: another process has the file, the disk is full or
        read-only, or the file has other contents."""
        self.path = path
        self.stale: int | None = None
        self._pid = os.getpid()
        try:
            self._fd = self._locked()
            try:
                self._write()
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise OperatorError(f"pid: {path}: {error.strerror}") from error

    def _locked(self) -> int:
        """Open and lock the file that has the name. Between the two, another master may end and remove it."""
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o644)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise OperatorError(f"pid: {self.path}: it is not a regular file")
                try:
                    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno not in (errno.EACCES, errno.EAGAIN):
                        raise
                    other = os.pread(fd, 64, 0).decode("ascii", "replace").strip()
                    raise OperatorError(f"pid: {self.path}: a server with the process id {other or '(not written yet)'} has it") from None
                if self._is_named(fd):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _write(self) -> None:
        before = os.pread(self._fd, 64, 0)
        if before.strip() and not before.strip().isdigit():
            raise OperatorError(f"pid: {self.path}: the file has other contents than a process id, and is left as it is")
        if before.strip() and int(before) != self._pid:
            self.stale = int(before)
        text = b"%d\n" % self._pid
        try:
            os.ftruncate(self._fd, 0)
            if os.pwrite(self._fd, text, 0) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):  # an empty file is not one of ours
                os.unlink(self.path)
            raise

    def rename(self, path: str) -> None:
        """Give the file another name, in place of a file that has it. Raises `OSError`."""
        os.rename(self.path, path)
        self.path = path

    def remove(self) -> None:
        """Remove the file, unless another file has its name now. In a child the file and the lock stay. Idempotent. Raises nothing."""
        try:
            if self._fd >= 0 and os.getpid() == self._pid and self._is_named(self._fd):
                os.unlink(self.path)
        except OSError as error:
            log.warning("pid: %s: %s", self.path, error.strerror)
        self.close()

    def close(self) -> None:
        """Close the descriptor. In a child the master's lock stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_named(self, fd: int) -> bool:
        own = os.fstat(fd)
        try:
            named = os.stat(self.path)
        except FileNotFoundError:
            return False
        return (own.st_dev, own.st_ino) == (named.st_dev, named.st_ino)
