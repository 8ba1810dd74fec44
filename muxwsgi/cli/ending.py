"""The end of a command's process: its exit status, its output, and the threads and processes that may still run."""

import io
import os
import sys
import threading
from typing import Any

from muxwsgi.errors import OperatorError

__all__ = ["discard_output", "end", "flush_output", "lasting", "report_full_output", "say"]


class _Output(io.FileIO):
    """Standard output. A write that fails raises `OperatorError`, as for other files. A broken pipe raises `BrokenPipeError`, because it is
    not a fault: the reader has closed the pipe."""

    def write(self, data: Any) -> Any:
        """Called by `io.BufferedWriter`."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OperatorError(f"standard output: {error.strerror}") from error


def report_full_output() -> None:
    """From now on `sys.stdout` raises `OperatorError` if it cannot be written. If it is another object already, it is not changed."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
        return
    stream.flush()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def flush_output() -> None:
    """Write the buffered output. Raises `OperatorError` and `BrokenPipeError`. An application may have closed or replaced the stream."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.closed:
        sys.stdout.flush()


def discard_output() -> None:
    """Drop buffered output that cannot be written, so that Python does not try again at the end of the process."""
    try:
        flush_output()
    except (OperatorError, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def say(message: str, detail: str = "") -> None:
    """Report a fault, in one line on standard error, after `detail`, which is empty or ends with a line end."""
    try:
        print(f"{detail}muxwsgi: error: {message}", file=sys.stderr)
    except OSError:
        pass  # there is no other place for the report; the exit status shows the fault too


def lasting() -> list[str]:
    """The names of the threads and processes that Python waits for at its end."""
    return [each.name for each in (*_threads(), *_processes())]


def end(status: int) -> None:
    """End the process of a command that has served nothing. An imported module may have started threads and processes that never end.
    The threads end with the process, and the processes are told to end."""
    if lasting():
        discard_output()
        for process in _processes():
            process.terminate()
        os._exit(status)
    if status:
        sys.exit(status)


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]


def _processes() -> list[Any]:
    if "multiprocessing.process" not in sys.modules:
        return []
    return [child for child in sys.modules["multiprocessing.process"].active_children() if not child.daemon]
