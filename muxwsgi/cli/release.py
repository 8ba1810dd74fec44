"""`Release`: whether the files of this package are still those that the master was started from. Imports no gevent.

A worker loads most of the package after it was forked. If the package was replaced meanwhile, it has modules of two releases: those that
its master has loaded, and those on disk.
"""

import logging
import os

import muxwsgi

__all__ = ["Release"]

log = logging.getLogger("muxwsgi.error")


class Release:
    """The installed package, as it was when this was made. pip replaces all its files, so one of them tells."""

    def __init__(self) -> None:
        self._known = _identity()

    def check(self) -> None:
        """Log that the package was replaced, once for each time. Call it before a process is forked that loads more of it."""
        now = _identity()
        if now != self._known:
            self._known = now
            log.warning(
                "muxwsgi was replaced on disk after this master had started: processes that it starts from now on may be of two releases. "
                "SIGUSR2 starts a new master"
            )


def _identity() -> tuple[int, int, int] | None:
    try:
        status = os.stat(muxwsgi.__file__)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns
