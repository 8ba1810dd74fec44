"""`RecordFile`: records in a file that only its owner may read. A batch is written whole or not at all. The file is rotated by size.

The file is complete after every write, also if the format has a frame around its records (HAR): in one system call, the new records and the
closing brackets replace the old closing brackets. The methods wait for the disk, so they are called in a thread.

Several processes may write to the same file, such as the workers of one master. Each locks the file or the pipe while it writes.
"""

import contextlib
import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from time import monotonic

from muxwsgi.errors import OperatorError

__all__ = ["RecordFile"]

log = logging.getLogger("muxwsgi.error")

#: Seconds to wait for another process that writes to the file. It holds the lock for one batch.
LOCK_TIMEOUT = 5.0


class RecordFile:
    """Records in sequence, with `separator` between them, `head` before the first and `tail` after the last.

    path        "-" is standard output. Pipes and terminals are never rotated
    max_bytes   limit for the file; 0 for no limit. Before a batch that would exceed it, the file becomes `path.1`, `path.1` becomes
                `path.2`, and so on
    keep        number of such old files at most

    A new file is created with mode 0600. An existing file keeps its mode, with a warning if others can read it. New records are added to
    it. If it does not end with `tail`, it is moved to `path.1`.
    """

    def __init__(
        self, path: str, *, head: bytes = b"", separator: bytes = b"", tail: bytes = b"", max_bytes: int = 0, keep: int = 5
    ) -> None:
        """Raises `OperatorError` if the file cannot be opened, or if another process holds its lock for too long."""
        if max_bytes < 0:
            raise OperatorError(f"{path}: {max_bytes} is not a size to rotate at")
        if keep < 1:
            raise OperatorError(f"{path}: rotation keeps at least one old file, not {keep}")
        self.path = path
        self.max_bytes = max_bytes
        self._head, self._separator, self._tail = head, separator, tail
        self._keep = keep
        self._fd: int | None = None
        self._regular = False
        self._end = 0  # where the next record goes
        self._stuck = False  # a rotation failed, and that was logged
        try:
            self._open()
        except OSError as error:
            raise OperatorError(f"{path}: {error.strerror}") from error
        assert self._fd is not None
        mode = os.fstat(self._fd).st_mode
        if self._regular and mode & 0o077:
            log.warning("%s: others than its owner may read what passed through the proxy (mode %o)", path, mode & 0o777)

    def write(self, records: Sequence[bytes]) -> None:
        """Add all records. If that fails, it raises `OSError`, and none of them is in the file."""
        if self._fd is None:
            self._open()
        assert self._fd is not None
        if not self._regular:
            with _pipe_locked(self._fd):
                _write_all(self._fd, b"".join(records))
            return
        size = sum(map(len, records)) + len(self._separator) * len(records)
        while True:
            fd = self._fd
            with self._locked(fd):
                if self._rotates_before(size) or (self.max_bytes and not self._has_the_name(fd)):  # another process may have rotated it
                    self._rotate()
                if self._fd == fd:  # otherwise it is another file, with a lock of its own
                    self._add(records)
                    return

    def _add(self, records: Sequence[bytes]) -> None:
        assert self._fd is not None
        self._find_end(self._fd)
        data = self._separator.join(records)
        if self._end > len(self._head):
            data = self._separator + data
        if not self._tail and self._end and os.pread(self._fd, 1, self._end - 1) != b"\n":
            data = b"\n" + data  # the last writer was killed in the middle of a line
        self._put(self._fd, data)

    def reopen(self) -> None:
        """Open the file that has the name now, after the old one was moved. If that fails, it raises `OSError` or `OperatorError`, and
        the old file stays in use.
        """
        if self.path == "-" or (self._fd is not None and self._has_the_name(self._fd)):
            return
        before = self._fd, self._regular, self._end
        try:
            self._open()
        except (OSError, OperatorError):
            self._fd, self._regular, self._end = before
            raise
        if before[0] is not None:
            os.close(before[0])

    def close(self) -> None:
        """Idempotent. Raises `OSError` if the disk reports a late error. The file is closed then too."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _has_the_name(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _open(self) -> None:
        if self.path == "-":
            fd = os.dup(1)
        else:
            # With O_APPEND, writes are also right after another program truncates the file (copytruncate) or writes to it.
            mode = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | (0 if self._tail else os.O_APPEND)
            fd = os.open(self.path, mode, 0o600)
        try:
            self._begin(fd)
        except BaseException:
            os.close(fd)
            raise

    def _begin(self, fd: int) -> None:
        status = os.fstat(fd)
        self._regular = stat.S_ISREG(status.st_mode) and self.path != "-"
        if self._tail and not self._regular:
            raise OperatorError(f"{self.path}: it is not a regular file")
        if self._tail:
            with self._locked(fd):
                size = os.fstat(fd).st_size
                ours = not size or self._is_ours(fd, size)
                if ours:
                    self._end = size - len(self._tail)
                    self._find_end(fd)
                else:
                    log.warning("%s: the existing file is not a complete archive of muxwsgi: renamed to %s.1", self.path, self.path)
                    self._shift()
            if not ours:
                self._open()
                os.close(fd)
                return
        self._fd = fd

    @contextlib.contextmanager
    def _locked(self, fd: int) -> Iterator[None]:
        """Hold the lock of the file. Raises `TimeoutError` if another process does not release it in time: it may be stopped."""
        give_up = monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > give_up:
                    raise TimeoutError(errno.ETIMEDOUT, "another process does not end its write") from None
                time.sleep(0.002)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a rotation has closed it, and with it the lock
                fcntl.flock(fd, fcntl.LOCK_UN)

    def _is_ours(self, fd: int, size: int) -> bool:
        """Whether the file ends as this class writes it. A file of another program, or one that a crash cut, does not."""
        frame = len(self._head) + len(self._tail)
        return size >= frame and os.pread(fd, len(self._tail), size - len(self._tail)) == self._tail

    def _find_end(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        if not self._tail:
            self._end = size
        elif self._is_ours(fd, size):
            self._end = size - len(self._tail)  # another process may have written
        elif size < self._end + len(self._tail) or self._end < len(self._head):  # new, or truncated by another program
            self._end = 0
            os.ftruncate(fd, 0)
            self._put(fd, self._head)

    def _put(self, fd: int, data: bytes) -> None:
        """Write `data` and the tail at the end. After an error the file is as before."""
        if self._tail:
            os.lseek(fd, self._end, os.SEEK_SET)
        try:
            _write_all(fd, data + self._tail)
        except OSError:
            if self._end and self._tail:
                os.pwrite(fd, self._tail, self._end)  # overwrites bytes that were just written, so it needs no new block
            os.ftruncate(fd, self._end and self._end + len(self._tail))
            raise
        self._end += len(data)

    def _rotates_before(self, size: int) -> bool:
        if not self.max_bytes or not self._regular or self._fd is None:
            return False
        held = os.fstat(self._fd).st_size
        return held + size > self.max_bytes and held > len(self._head) + len(self._tail)

    def _rotate(self) -> None:
        """Rotate the files. If that fails (the folder was moved or made read-only), the file keeps growing. Each batch tries again."""
        assert self._fd is not None
        try:
            if self._has_the_name(self._fd):
                self._shift()
            self.reopen()
        except (OSError, OperatorError) as error:
            if not self._stuck:
                self._stuck = True
                log.error("%s: it cannot be rotated, and grows on: %s", self.path, getattr(error, "strerror", None) or error)
        else:
            self._stuck = False

    def _shift(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            if os.path.lexists(f"{self.path}.{number}"):
                os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        os.replace(self.path, f"{self.path}.1")


@contextlib.contextmanager
def _pipe_locked(fd: int) -> Iterator[None]:
    """Hold the lock of a pipe, because the kernel mixes what several processes write to it, if it is more than 4 KiB. It waits for as long
    as the reader makes writes wait. It is a lock of the process (fcntl(2)): one of flock(2) would be shared by all processes that have
    inherited the descriptor. What cannot be locked is written to without a lock."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EDEADLK):
            raise
        yield
        return
    try:
        yield
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:  # on a nearly full disk, a write may be incomplete, and the next one raises the error
        view = view[os.write(fd, view) :]
