"""The memory for the Python frames of a greenlet, kept for the next greenlet.

CPython maps a block of 16 KiB for each greenlet that runs Python code (mmap(2)), and unmaps it at the greenlet's end (munmap(2)). The
kernel also finds and clears the pages. Each connection has a greenlet, and this work costs the kernel as much as reading a request. A C
extension can replace the allocator of such blocks (`PyObject_SetArenaAllocator`). In the compiled build, the replacement reuses blocks that
were freed recently. Plain Python cannot replace it.

The setting applies to the whole process. So `muxwsgi run` makes it, and the library does not.
"""

__all__ = ["keep_frames"]


def keep_frames() -> None:
    """Keep a few blocks from now on, in the whole process. Idempotent."""
    _keep_frames()  # type: ignore[name-defined]  # noqa: F821


# In the compiled build the name is a C function: see syscalls.py.
globals().update(_keep_frames=lambda: None)
