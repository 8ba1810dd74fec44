"""Standard output and standard error for a process that must not wait for readers: `print` in an application, tracebacks, logs."""

import io
import os
import sys

from muxwsgi.observe.output import TextOutput, standard_output

__all__ = ["flush_streams", "lost_lines", "streams_wait", "take_streams"]

_STREAMS = (("stdout", 1), ("stderr", 2))

_replaced: list[object] = []  # kept, because garbage collection would close the descriptor


def take_streams() -> None:
    """Replace `sys.stdout` and `sys.stderr`. If a reader or the disk does not take bytes, the new streams lose lines instead of waiting or
    raising. Call it before the application is imported. Idempotent."""
    _open_missing()
    for name, fd in _STREAMS:
        stream = getattr(sys, name)
        if stream is None:  # it was closed when Python began
            encoding, errors, buffered, through = "utf-8", "backslashreplace", False, False
        elif not isinstance(stream, io.TextIOWrapper) or isinstance(stream.buffer, TextOutput):
            continue  # replaced by the application
        else:
            stream.flush()
            encoding, errors = stream.encoding, stream.errors or "strict"
            buffered, through = not stream.line_buffering, stream.write_through  # the latter with PYTHONUNBUFFERED
        raw = TextOutput(standard_output(fd), fd, f"<{name}>")
        taken = io.TextIOWrapper(
            raw, encoding=encoding, errors=errors, newline="\n", line_buffering=not buffered, write_through=through
        )
        _replaced.append(stream)
        setattr(sys, name, taken)
        # An application may wrap `sys.stdout.buffer` in a new stream. The buffer would be closed with the last reference to the old stream.
        # So a reference is kept here, as Python does.
        setattr(sys, f"__{name}__", taken)


def flush_streams(timeout: float = 0) -> None:
    """Try to write the waiting bytes of each stream, for `timeout` seconds each. Raises nothing, also if the application has replaced or
    closed the streams."""
    for name, fd in _STREAMS:
        for stream in {getattr(sys, name), getattr(sys, f"__{name}__")}:
            try:
                if isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, TextOutput):
                    stream.flush()
            except ValueError:
                pass  # the stream was closed, or its buffer was detached
        try:
            standard_output(fd).flush(timeout)
        except OSError:
            pass  # it is counted there


def streams_wait() -> bool:
    """Whether bytes wait for a reader."""
    return any(standard_output(fd).waiting for _, fd in _STREAMS)


def lost_lines() -> int:
    """Number of lines that are lost."""
    return sum(output.lost for output in {standard_output(fd) for _, fd in _STREAMS})


def _open_missing() -> None:
    """Open /dev/null for closed descriptors 0 to 2. Otherwise a client's socket could get such a number, and messages for standard error
    would go to the client."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
