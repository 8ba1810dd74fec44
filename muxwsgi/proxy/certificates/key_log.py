"""`KeyLog`: writes the secrets of TLS sessions in NSS's format (SSLKEYLOGFILE), for Wireshark.

The file decrypts recorded traffic. It must be readable for its owner alone, and it is written only if the operator asks for it.
"""

import os
import stat

from OpenSSL import SSL

from muxwsgi.errors import OperatorError

__all__ = ["KeyLog"]


class KeyLog:
    """A callback of OpenSSL contexts that appends lines to a file. Many contexts and processes can write to one file.

    Traffic continues if the disk is full.

    Attributes:
        written, lost: numbers of lines that were written, and of lines that could not be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises `OperatorError` if the file cannot be written, or if others can read it."""
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise OperatorError(f"key log: {os.fspath(path)}: {error.strerror}") from None
        mode = os.fstat(self._fd).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            os.close(self._fd)
            why = f"others can read it (mode {mode & 0o777:03o}): chmod 600 it" if stat.S_ISREG(mode) else "it is not a regular file"
            raise OperatorError(f"key log: {os.fspath(path)}: {why}")
        self.written = self.lost = 0
        self._torn = False

    def attach(self, context: SSL.Context) -> None:
        """Log the sessions of a context. Call it before the context makes its first connection."""
        context.set_keylog_callback(self)

    def __call__(self, ssl: SSL.Connection, line: bytes) -> None:
        """OpenSSL's callback: one line, without its end."""
        whole = b"\n" * self._torn + line + b"\n"
        try:
            done = os.write(self._fd, whole)
        except OSError:
            done = 0
        if done == len(whole):
            self.written += 1
            self._torn = False
        else:
            self.lost += 1
            self._torn = self._torn or done > 0  # the next line must not continue this half-written one

    def close(self) -> None:
        """Close the file. Later lines are lost, and counted."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
