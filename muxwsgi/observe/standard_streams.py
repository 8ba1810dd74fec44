"""Standard output and standard error of a process that must not wait for their readers: `print` in an application, tracebacks, logs."""

import io
import os
import sys

from muxwsgi.observe.output import TextOutput, may_wait, standard_output

__all__ = ["flush_streams", "lost_lines", "streams_wait", "take_streams"]

_STREAMS = (("stdout", 1), ("stderr", 2))


def take_streams() -> None:
    """Let `sys.stdout` and `sys.stderr` lose what their readers do not take in time, instead of waiting for them. To be called before the
    application is imported. Files stay as they are: a disk does not make one wait for ever. Idempotent."""
    _open_missing()
    for name, fd in _STREAMS:
        stream = getattr(sys, name)
        if stream is None:  # it was closed when Python began
            encoding, errors, buffered = "utf-8", "backslashreplace", False
        elif not isinstance(stream, io.TextIOWrapper) or isinstance(stream.buffer, TextOutput):
            continue  # somebody's own
        elif not may_wait(fd):
            continue
        else:
            stream.flush()
            encoding, errors, buffered = stream.encoding, stream.errors or "strict", not stream.line_buffering
        raw = TextOutput(standard_output(fd), fd, f"<{name}>")
        taken = io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="\n", line_buffering=not buffered)
        setattr(sys, name, taken)


def flush_streams(timeout: float = 0) -> None:
    """Try to write what waits, for `timeout` seconds each. What cannot be written is lost."""
    for name, fd in _STREAMS:
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, TextOutput):
            stream.flush()
            try:
                standard_output(fd).flush(timeout)
            except OSError:
                pass  # it is counted there


def streams_wait() -> bool:
    """Whether something waits for its reader."""
    return any(standard_output(fd).waiting for _, fd in _STREAMS)


def lost_lines() -> int:
    """How many lines were not written and will not be."""
    return sum(output.lost for output in {standard_output(fd) for _, fd in _STREAMS})


def _open_missing() -> None:
    """The numbers 0 to 2 must not go to sockets: what writes to standard error would write to a client."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
