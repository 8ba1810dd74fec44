"""`LogFile`: lines of text in a file, on standard output or standard error. Once the file is open, its errors do not end the server.

If the disk is full or the pipe has no reader, lines are lost and counted. The log reports that at the beginning and at the end of each
outage. If the log cannot be opened again after a rotation, the old file stays in use.
"""

import errno
import logging
import os
import stat
import sys
from collections.abc import Callable

from muxwsgi.errors import OperatorError
from muxwsgi.observe.output import Output, standard_output

__all__ = ["LogFile"]

_FLAGS = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK

#: Seconds for writing the waiting lines when the log is closed.
LAST_WORDS = 1.0


class LogFile:
    """Writes text to `path`, or to the standard descriptor 1 or 2 if it is `-`."""

    def __init__(self, path: str, option: str, standard: int, say: Callable[[int, str], None]) -> None:
        """`option` is the name of the operator's option. `say(level, message)` reports later errors. Raises `OperatorError` if the file
        cannot be opened."""
        self.path = path if path == "-" else os.path.abspath(path)  # the application may change the folder
        self._option = option
        self._standard = standard
        self._say = say
        self._failing: str | None = None  # why lines are lost at the moment
        self._lost_before = 0  # lines that were lost by closed outputs
        self._lost_said = 0
        self.creating: Callable[[], None] | None = None  # called before a file is opened, which may have to be created for another user
        self.opened: Callable[[], None] | None = None  # called after a new file was opened
        self._stuck = False  # opening the file again failed, and that was reported
        stream = sys.stdout if standard == 1 else sys.stderr
        self._encoding = (stream.encoding if path == "-" and stream is not None else None) or "utf-8"
        try:
            self._output = self._open()
        except OSError as error:
            raise OperatorError(f"{option}: {path}: {error.strerror}") from error

    @property
    def lost(self) -> int:
        """Number of lines that are lost."""
        return self._lost_before + self._output.lost

    @property
    def waiting(self) -> bool:
        """Whether lines wait for the reader of the log."""
        return self._output.waiting

    def write(self, text: str) -> None:
        """Write `text`, which consists of whole lines. Raises nothing."""
        try:
            self._output.write(text.encode(self._encoding, "backslashreplace"))
        except OSError as error:
            self._note_loss(error)
        else:
            self._note_success()

    def flush(self, timeout: float = 0) -> None:
        """Try again to write the waiting lines. Raises nothing."""
        if not self._output.waiting:
            return
        try:
            self._output.flush(timeout)
        except OSError as error:
            self._note_loss(error)
        else:
            self._note_success()

    def reopen(self) -> None:
        """After a rotation: open the file that has the name now. If that fails, the old file stays in use. Raises nothing."""
        if self.path == "-":
            return
        try:
            opened = self._open()
        except OSError as error:
            if not self._stuck:
                self._stuck = True
                self._tell(logging.ERROR, f"it cannot be opened again, and is written on under its old name: {error.strerror}")
            return
        self._stuck = False
        self.flush()
        before, self._output = self._output, opened
        before.close()
        self._lost_before += before.lost
        if self.opened is not None:
            self.opened()

    def follow(self) -> None:
        """`reopen`, if the open file does not have the name any more. Raises nothing."""
        if self.path != "-" and not self._output.is_named(self.path):
            self.reopen()

    def close(self) -> None:
        """Write the waiting lines, within a second, and close the file. Raises nothing."""
        self.flush(LAST_WORDS)
        if self.path != "-":
            self._output.close()

    def forsake(self) -> None:
        """In a child: close the file. The lines that wait are the parent's."""
        if self.path != "-":
            self._output.close()

    def _open(self) -> Output:
        if self.path == "-":
            return standard_output(self._standard)
        if self.creating is not None:
            self.creating()
        try:
            return Output(os.open(self.path, os.O_WRONLY | _FLAGS, 0o666))
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(self.path).st_mode):
                raise
            return Output(os.open(self.path, os.O_RDWR | _FLAGS))  # a named pipe without a reader yet

    def _note_loss(self, error: OSError) -> None:
        if self._failing is None:
            self._failing = error.strerror or str(error)
            self._tell(logging.ERROR, f"{self._failing}; lines are lost, the traffic goes on")

    def _note_success(self) -> None:
        if self._failing is not None and not self._output.waiting:
            self._failing = None
            lost, self._lost_said = self.lost - self._lost_said, self.lost
            self._tell(logging.WARNING, f"it is written again; {lost} lines were lost")

    def _tell(self, level: int, message: str) -> None:
        if self.path != "-":  # losses of standard output and error are reported elsewhere: see `lost_lines`
            self._say(level, f"{self._option}: {self.path}: {message}")
