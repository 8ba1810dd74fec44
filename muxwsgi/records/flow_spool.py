"""`FlowSpool`: between the greenlets that serve, which must not wait, and a file, which may make one wait for ever.

Flows that have ended are queued, within a limit of memory. One greenlet makes records of them, and gives way after each. A thread of
gevent's pool writes each batch. That thread does not make records, because it would hold the interpreter for milliseconds at a time, and
with it the hub. Flows that cannot be written, because the disk is full or slower than the traffic, are lost and counted. The traffic goes
on.
"""

import atexit
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable

import gevent
import gevent.threadpool  # now: while the interpreter ends it could not be loaded any more
from gevent.event import Event

from muxwsgi.records.flow import Flow
from muxwsgi.records.record_file import RecordFile
from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.ready import give_turn

__all__ = ["FlowSpool"]

log = logging.getLogger("muxwsgi.error")

#: Seconds in which a batch gathers.
GATHERING = 0.2

#: Bytes of records that are written at once; one flow may be more.
BATCH = 1 << 20

#: What a flow without its bodies and messages takes in memory, about.
FLOW_SIZE = 4096

#: Seconds between two complaints about lost flows.
COMPLAINING = 60.0


def _close(spool: "weakref.ref[FlowSpool]") -> None:
    """At the end of a program that has not closed it, as one that `muxwsgi run` serves cannot: the last flows are still to be written."""
    alive = spool()
    if alive is not None:
        alive.close()


class FlowSpool:
    """A `FlowSink`: puts flows into a `RecordFile`. At the end of the process it is closed.

    written, lost   how many flows are in the file, and how many should be and are not
    """

    def __init__(
        self,
        file: RecordFile,
        encode: Callable[[Flow], bytes],
        *,
        flow_filter: Callable[[Flow], bool] | None = None,
        max_queued: int = 64 << 20,
    ) -> None:
        """`max_queued` is how many bytes of flows may wait for the disk; one flow may, however large it is."""
        self.written = 0
        self.lost = 0
        self._file = file
        self._encode = encode
        self._filter = flow_filter
        self._max_queued = max_queued
        self._queue: deque[tuple[Flow, int] | Callable[[], object]] = deque()  # flows, and what is to be done between them
        self._queued = 0  # bytes
        self._taken = 0  # flows that have left the queue, and are neither written nor lost yet
        self._carried: tuple[bytes, int] | None = None  # the record that did not fit in the batch before, and the size of its flow
        self._writer: gevent.Greenlet[[], None] | None = None
        self._work = Event()  # the writer has something to do
        self._hurry = Event()  # and shall not wait for more of it
        self._closing = False
        self._complained: float | None = None
        atexit.register(_close, weakref.ref(self))
        leave_to_parent(self)

    def forsake(self) -> None:
        """In a forked child: what waits is the parent's to write, and a lock on the file must not last as long as the child."""
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
        """Wait until all flows so far are written or lost; False where that took longer than `timeout` seconds."""
        written = Event()
        self._queue.append(written.set)
        self._wake()
        self._hurry.set()
        return bool(written.wait(timeout))

    def reopen(self) -> None:
        """After a rotation by others: write what waits, and go on in a new file of the same name. Does not wait for that."""
        self._queue.append(self._reopen_file)
        self._wake()
        self._hurry.set()

    def close(self, timeout: float = 3.0) -> None:
        """Write what waits, for at most `timeout` seconds, and close the file. What comes later is lost. Idempotent."""
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
        else:  # a thread is stuck within a write: closing the descriptor under it could hit another file
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
        """The flows at the head of the queue, as many as go together."""
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
        """The next flow as a record, with its size in memory; None where something else comes first."""
        if self._carried:
            carried, self._carried = self._carried, None
            return carried
        while self._queue and isinstance(item := self._queue[0], tuple):
            self._queue.popleft()
            self._taken += 1
            flow, size = item
            try:
                return self._encode(flow), size
            except Exception:  # this flow cannot be read; the next one may be good
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
        """Have a thread do what waits for the disk; why it could not."""

        def tried() -> str | None:  # the pool would print a traceback of what it raises
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
