"""The memory for the Python frames of a greenlet, kept for the next greenlet.

CPython gives each greenlet that runs Python code a block of 16 KiB, by mmap(2), and takes it back at its end, by munmap(2); between the two
the kernel finds and clears pages for it. Each connection has a greenlet, so these are as much work for the kernel as reading a
request. Python lets a program choose where such blocks come from (`PyObject_SetArenaAllocator`): the compiled build takes those that were
given back a moment ago. Plain Python cannot do that, and is not changed.

It is a setting of the whole process. So `muxwsgi run` makes it, and the library does not.
"""

__all__ = ["keep_frames"]


def keep_frames() -> None:
    """Keep a few blocks from now on, in the whole process. Idempotent."""
    _keep_frames()  # type: ignore[name-defined]  # noqa: F821


# In the compiled build the name is a C function: see syscalls.py.
globals().update(_keep_frames=lambda: None)
