"""`file_state`: by what a change of a file is noticed, for files that are read again when they have changed."""

import os
import stat

__all__ = ["FileState", "file_state"]

#: Times of modification and of change in nanoseconds, size, inode. A rename over the file changes the inode. A copy with an old time of
#: modification, and new permissions, change the time of change.
FileState = tuple[int, int, int, int]


def file_state(path: str | bytes, *, only_regular: bool = False) -> FileState | None:
    """The state of the file that `path` leads to. It is another one after each change. None if the file cannot be found, and with
    `only_regular` also for a pipe or a device."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    if only_regular and not stat.S_ISREG(found.st_mode):
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
