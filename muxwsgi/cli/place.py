"""`Place`: the duties of a worker to its master while it serves. Once a second it reports that its event loop runs, and checks whether it
has served for too long or uses too much memory."""

import logging
import os
import signal
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

import gevent

from muxwsgi.http.exchange import Exchange
from muxwsgi.server.heartbeat import BEAT
from muxwsgi.server.metrics import resident_bytes
from muxwsgi.server.parent import die_after
from muxwsgi.wire.every import Every
from muxwsgi.wire.ready import READ

if TYPE_CHECKING:
    from muxwsgi.cli.workers import Role
    from muxwsgi.server.server import Server

__all__ = ["Place"]

log = logging.getLogger("muxwsgi.error")

#: How often a worker looks for another parent when its master ends, and seconds between two looks. Later it looks once a second.
LOOKS, LOOK_INTERVAL = 100, 0.01


class Place:
    """A worker's place among those of its master."""

    def __init__(self, role: "Role", memory: Callable[[], int] | None = None) -> None:
        """`memory` returns the memory of the process in bytes. Tests replace it."""
        settings = role.settings
        self._worker = role.worker
        self._master = os.getppid()
        self._memory = memory or resident_bytes
        self._most_memory = settings.max_worker_memory << 20
        self._most_requests = settings.max_requests
        if self._most_requests:
            import random

            self._most_requests += random.randint(0, settings.max_requests_jitter)
        self._time_to_end = settings.graceful_timeout + settings.kill_after
        self._leaves_at = monotonic() + settings.worker_lifetime if settings.worker_lifetime else None
        self._requests = 0
        self._left = False
        self._orphaned = False
        self._timed = False
        self._server: Server | None = None
        self._every = Every(BEAT, self._look)
        self._watcher = gevent.get_hub().loop.io(role.worker.fileno(), READ)

    def start(self, server: "Server") -> None:
        """Tell the master that this worker is ready, as soon as the event loop runs."""
        self._server = server
        die_after(self._master, self._time_to_end)
        if self._most_requests:
            server.events.subscribe(exchange=self._count)
        gevent.spawn(self._worker.ready)
        self._every.start()
        self._watcher.start(self._master_ended)

    def stop(self) -> None:
        """End what `start` has begun."""
        self._every.stop()
        self._watcher.close()

    def end_in_time(self) -> None:
        """Called for each signal, in the middle of any code, and once a second. If the master has ended, nobody kills this worker when its
        event loop is blocked, or when what the application has started does not end. So the kernel does."""
        if os.getppid() != self._master and not self._timed:
            self._timed = True
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, max(self._time_to_end, 1e-3))

    def say_stop(self) -> None:
        """Log why this worker stops, if its master has not told it to."""
        if os.getppid() != self._master:
            self._orphaned = True
            log.error("the master has ended: this worker ends too")
        else:
            log.debug("this worker stops")

    def _count(self, exchange: Exchange) -> None:
        self._requests += 1

    def _master_ended(self) -> None:
        """In the hub. The kernel closes the files of a process that ends, and gives its children another parent a moment later."""
        self._watcher.stop()
        gevent.spawn(self._look_until_orphaned)

    def _look_until_orphaned(self) -> None:
        for _ in range(LOOKS):
            if os.getppid() != self._master:
                self._look()
                return
            gevent.sleep(LOOK_INTERVAL)

    def _look(self) -> None:
        self._worker.beat()
        self.end_in_time()
        if os.getppid() != self._master and not self._orphaned:
            assert self._server is not None
            self._orphaned = True
            log.error("the master has ended: this worker ends too")
            self._server.request_stop()
        reason = None if self._left else self._reason_to_leave()
        if reason is not None:
            self._left = True
            log.info("this worker is to be replaced: %s", reason)
            self._worker.leave()

    def _reason_to_leave(self) -> str | None:
        if self._most_requests and self._requests >= self._most_requests:
            return f"it has served {self._requests} requests"
        if self._leaves_at is not None and monotonic() >= self._leaves_at:
            return "it has reached its lifetime"
        if self._most_memory:
            used = self._memory()
            if used > self._most_memory:
                return f"it has {used >> 20} MiB in memory"
        return None
