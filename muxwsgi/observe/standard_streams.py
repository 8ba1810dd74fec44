"""Standard output and standard error of a process that must not wait for their readers: `print` in an application, tracebacks, logs."""

import io
import os
import sys

from muxwsgi.observe.output import TextOutput, standard_output

__all__ = ["flush_streams", "lost_lines", "streams_wait", "take_streams"]

_STREAMS = (("stdout", 1), ("stderr", 2))

_replaced: list[object] = []  # kept, because their end would close the descriptor


def take_streams() -> None:
    """Let `sys.stdout` and `sys.stderr` lose what their readers, or a disk, do not take, instead of waiting or raising. To be called before
    the application is imported. Idempotent."""
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
        # An application may wrap `sys.stdout.buffer` anew. What it wraps is closed with the last reference to the stream before, as Python
        # keeps one here.
        setattr(sys, f"__{name}__", taken)


def flush_streams(timeout: float = 0) -> None:
    """Try to write what waits, for `timeout` seconds each. What cannot be written is lost. Raises nothing, whatever the application has
    made of its streams."""
    for name, fd in _STREAMS:
        for stream in {getattr(sys, name), getattr(sys, f"__{name}__")}:
            try:
                if isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, TextOutput):
                    stream.flush()
            except ValueError:
                pass  # it was closed, or its buffer taken out of it
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
