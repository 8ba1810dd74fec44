"""`FlowSpool`: writes flows to a file without delaying the greenlets that serve. A write to the file may block for any time.

Flows that have ended are queued, within a limit of memory. One greenlet makes records of them, and gives way after each. A thread of
gevent's pool writes each batch. That thread does not make records, because it would hold the GIL for milliseconds at a time, and the hub
could not run. If the disk is full or slower than the traffic, flows are lost and counted. The traffic goes on.
"""

import atexit
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable

import gevent
import gevent.threadpool  # imported early: it cannot be imported while the interpreter ends
from gevent.event import Event

from muxwsgi.records.flow import Flow
from muxwsgi.records.record_file import RecordFile
from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.ready import give_turn

__all__ = ["FlowSpool"]

log = logging.getLogger("muxwsgi.error")

#: Seconds for which flows are collected into a batch.
GATHERING = 0.2

#: Bytes of records that are written at once. A single flow may be larger.
BATCH = 1 << 20

#: Bytes of memory for a flow without its bodies and messages, about.
FLOW_SIZE = 4096

#: Seconds between two log lines about lost flows.
COMPLAINING = 60.0


def _close(spool: "weakref.ref[FlowSpool]") -> None:
    """Write the last flows at the end of a program that has not closed the spool. A program that `muxwsgi run` serves cannot close it."""
    alive = spool()
    if alive is not None:
        alive.close()


class FlowSpool:
    """A `FlowSink` that writes flows to a `RecordFile`. At the end of the process it is closed.

    written, lost   number of flows that were written, and that could not be written
    """

    def __init__(
        self,
        file: RecordFile,
        encode: Callable[[Flow], bytes],
        *,
        flow_filter: Callable[[Flow], bool] | None = None,
        max_queued: int = 64 << 20,
    ) -> None:
        """`max_queued` bytes of flows may wait for the disk. A single flow may wait even if it is larger."""
        self.written = 0
        self.lost = 0
        self._file = file
        self._encode = encode
        self._filter = flow_filter
        self._max_queued = max_queued
        self._queue: deque[tuple[Flow, int] | Callable[[], object]] = deque()  # flows, and functions to call between them
        self._queued = 0  # bytes
        self._taken = 0  # flows that have left the queue, and are neither written nor lost yet
        self._carried: tuple[bytes, int] | None = None  # the record that did not fit in the last batch, and the size of its flow
        self._writer: gevent.Greenlet[[], None] | None = None
        self._work = Event()  # the writer has something to do
        self._hurry = Event()  # the writer must not wait for more flows
        self._closing = False
        self._complained: float | None = None
        atexit.register(_close, weakref.ref(self))
        leave_to_parent(self)

    def forsake(self) -> None:
        """In a forked child: drop the queue, which the parent writes, and close the file, so that the child does not keep its lock."""
        self._closing = True
        self._queue.clear()
        self._carried = None
        self._file.close()

    def __call__(self, flow: Flow) -> None:
        if self._filter is not None and not self._filter(flow):
            return
        size = FLOW_SIZE + flow.kept
        if self._closing:
            self._lose(1, "it is closed")
        elif self._queued and self._queued + size > self._max_queued:
            self._lose(1, f"it is slower than the traffic, and {self._queued} bytes of flows wait")
        else:
            self._queue.append((flow, size))
            self._queued += size
            if not self._work.is_set():
                self._wake()

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until all flows so far are written or lost. Returns False after `timeout` seconds."""
        written = Event()
        self._queue.append(written.set)
        self._wake()
        self._hurry.set()
        return bool(written.wait(timeout))

    def reopen(self) -> None:
        """After a rotation by another program: write the queued flows, and go on in a new file of the same name. Does not wait for that."""
        self._queue.append(self._reopen_file)
        self._wake()
        self._hurry.set()

    def close(self, timeout: float = 3.0) -> None:
        """Write the queued flows, for at most `timeout` seconds, and close the file. Later flows are lost. Idempotent."""
        if self._closing:
            return
        self._closing = True
        written = self.flush(timeout)
        if self._writer is not None:
            self._writer.kill()
        if written:
            try:
                self._file.close()
            except OSError as error:
                log.error("%s: the last flows may be missing: %s", self._file.path, error.strerror)
        else:  # a thread is blocked in a write: if the descriptor were closed, the thread could write to another file
            count = self._taken + sum(isinstance(item, tuple) for item in self._queue)
            self._queue.clear()
            self._lose(count, f"it took longer than {timeout:g} s to close")
        if self.lost:
            log.warning("%s: %d flows were lost, %d written", self._file.path, self.lost, self.written)

    def _wake(self) -> None:
        self._work.set()
        if self._writer is None:
            self._writer = gevent.spawn(self._write_on)

    def _write_on(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            self._hurry.wait(GATHERING)
            while self._queue or self._carried:
                item = self._queue[0] if self._queue else None
                if self._carried or isinstance(item, tuple):
                    self._write_batch()
                elif item is not None:
                    self._queue.popleft()
                    item()
            self._hurry.clear()

    def _write_batch(self) -> None:
        """Write the first flows of the queue, as many as fit into a batch."""
        records: list[bytes] = []
        room = min(BATCH, self._file.max_bytes or BATCH)
        size_in_memory = 0
        while next_one := self._next_record():
            record, size = next_one
            if records and len(record) > room:
                self._carried = next_one
                break
            records.append(record)
            room -= len(record)
            size_in_memory += size
            give_turn()
        if records:
            error = self._in_thread(lambda: self._file.write(records))
            self._taken -= len(records)
            if error is None:
                self.written += len(records)
            else:
                self._lose(len(records), error)
        self._queued -= size_in_memory

    def _next_record(self) -> tuple[bytes, int] | None:
        """The next flow as a record, with its size in memory; None if the queue is empty or a function comes first."""
        if self._carried:
            carried, self._carried = self._carried, None
            return carried
        while self._queue and isinstance(item := self._queue[0], tuple):
            self._queue.popleft()
            self._taken += 1
            flow, size = item
            try:
                return self._encode(flow), size
            except Exception:  # no record can be made of this flow; the next one may be fine
                log.exception("%s: flow %d cannot be written", self._file.path, flow.id)
                self.lost += 1
                self._taken -= 1
                self._queued -= size
        return None

    def _reopen_file(self) -> None:
        error = self._in_thread(self._file.reopen)
        if error is not None:
            log.error("%s: it cannot be opened again, and is written on under its old name: %s", self._file.path, error)

    def _in_thread(self, job: Callable[[], None]) -> str | None:
        """Do `job` in a thread, because it waits for the disk. Returns the error as a text, None without one."""

        def tried() -> str | None:  # the pool would print a traceback of an exception
            try:
                job()
            except OSError as error:
                return error.strerror or str(error)
            except Exception as error:  # any error: the greenlet that writes must go on
                return str(error) or repr(error)
            return None

        why: str | None = gevent.get_hub().threadpool.apply(tried)
        return why

    def _lose(self, count: int, why: str) -> None:
        if count:
            self.lost += count
            now = time.monotonic()
            if self._complained is None or now - self._complained > COMPLAINING:
                self._complained = now
                log.error("%s: %s; flows are lost (%d so far), the traffic goes on", self._file.path, why, self.lost)
