"""`Engine`: moves the bytes of all plain relays of a hub, without a greenlet for any of them.

How a byte goes
---------------

Both descriptors of a pair are watched by one epoll, edge-triggered, and gevent watches that epoll with one watcher. `_pump` takes the
events and calls `_flow` for each direction that may have something to do:

    source --recv--> shared buffer --send--> target         messages: one read, one write, nothing is kept
                          '--> held --send--> target        the target takes a part only: the rest waits in the heap, 16 KiB at most
    source --splice--> pipe --splice--> target              after `FULL` full reads: the bytes never come into this process

A direction reads again when all that it has read is sent. So a reader that stops costs a pipe or 16 KiB, and the sender stops too.
A pipe is held only while bytes move. If there is none (`pipes.py`), the shared buffer does it.

How a pair ends
---------------

- The end of a stream is passed on (SHUT_WR) when nothing of it waits in the pipe or in the heap. The pair is over when both have ended.
- A source fails: the pair is over. Nothing of this direction waits then, because it reads only when all is sent.
- A target fails: what waits for it is dropped. What its peer had sent before is still passed on, for `CUT_GRACE` seconds at most.
- A side resets after its end: nobody reads there, so epoll says so. The other direction has nowhere to go.
- No byte for the idle timeout; a deadline or `Lifeline.fail`; a descriptor is closed by somebody else (`Lifeline.close`).

A pair that is over is told to its waiter, or to its owner, in a greenlet. The engine closes no descriptor.

What must hold
--------------

- Edge-triggered: a direction is ready until a call says EAGAIN. A read that gets less than it asked for saves that call, except where it
  can stop before all is read: at the end of the stream, at urgent data, and on unix sockets at a message with a descriptor.
- splice(2) may return 0 without the end of the stream. So recv(2) is asked.
- A direction moves `TURNS` blocks, and then the others have theirs. The engine comes back for it after the loop has looked at all else.
- A descriptor is out of the epoll before it is closed. Otherwise its number could be another's, and would get the bytes.
- A child that was forked shares the epoll. It must not take anything out of it.

The file is long because a compiled class is in one file.
"""

import errno
import logging
import math
import os
from typing import Any

import gevent
from gevent import get_hub, getcurrent

from muxwsgi.errors import Expired
from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.pipes import Pipes
from muxwsgi.wire.ready import unacknowledged
from muxwsgi.wire.relay_calls import (
    BLOCK,
    END,
    FAILED,
    INPUT,
    OUTPUT,
    PIPE,
    REST,
    end_writing,
    event_fd,
    event_mask,
    held,
    make_epoll,
    move,
    poll,
    put,
    put_bytes,
    socket_error,
    take,
    unwatch,
    watch,
)
from muxwsgi.wire.relay_pair import Pair, Way
from muxwsgi.wire.syscalls import clock, close_descriptor
from muxwsgi.wire.throttle import TICK
from muxwsgi.wire.transport import CUT_GRACE

__all__ = ["Engine", "engine_here"]

log = logging.getLogger("muxwsgi.error")

#: Blocks that a direction moves before the others have their turn: up to 256 KiB copied, or 4 MiB spliced.
TURNS = 16

#: Full reads in a row after which a direction is spliced, and small splices after which it is copied again. A splice of a small message
#: costs more than a copy.
FULL, PATIENCE = 3, 8

#: Seconds between two looks at all deadlines.
SWEEP = 1.0

_EAGAIN = errno.EAGAIN
_FAILED, _INPUT, _OUTPUT = int(FAILED), int(INPUT | END | REST), int(OUTPUT | END)
_WHOLE = int(END | REST)
_BLOCK, _PIPE = BLOCK, PIPE


class Engine:
    """Relays the pairs of one hub.

    pairs   how many there are
    pipes   the pipes that they splice through
    """

    def __init__(self) -> None:
        """For this thread's hub. Raises `OSError` if there is no descriptor for the epoll."""
        self.pairs = 0
        self._process = os.getpid()
        self._poller = make_epoll()
        self._epoll = self._poller.fileno()
        self._ways: list[Way | None] = []  # by their source
        self._again: list[Way] = []
        self._throttled: list[Way] = []
        self._over: list[Pair] = []
        self.pipes = Pipes()
        self._now = clock()
        self._turning = self._ticking = False
        loop = self._loop = get_hub().loop
        self._watcher = loop.io(self._epoll, 1, ref=False)
        self._watcher.start(self._pump)
        self._turn = loop.timer(0)
        self._tick = loop.timer(TICK, TICK)
        self._sweeps = loop.timer(SWEEP, SWEEP, ref=False)
        leave_to_parent(self)

    def add(
        self,
        left: Way,
        right: Way,
        line: Lifeline | None = None,
        far_line: Lifeline | None = None,
        *,
        idle_timeout: float | None = None,
        fin_timeout: float | None = None,
    ) -> Pair:
        """Relay from now on: `left` from the near to the far side, and `right` back. The lifelines are those of the near and the far
        connection. Raises `OSError` if a descriptor cannot be watched."""
        pair = Pair(self, left, right, line, far_line)
        left.pair = right.pair = pair
        left.other, right.other = right, left
        if idle_timeout is not None:
            pair.idle_timeout = idle_timeout
        if fin_timeout is not None:
            pair.fin_timeout = fin_timeout
        pair.active_at = self._now = clock()
        for way in (left, right):
            while len(self._ways) <= way.source:
                self._ways.append(None)
            if self._ways[way.source] is not None:
                self._forget(pair)
                raise OSError(errno.EALREADY, "the connection is relayed already")
            self._ways[way.source] = way
            failed = watch(self._epoll, way.source)
            if failed < 0:
                self._forget(pair)
                raise OSError(-failed, os.strerror(-failed))
        if not self.pairs:
            self._watcher.ref = True
            self._sweeps.again(self._sweep_now)
        self.pairs += 1
        if line is not None:
            line.relay = pair
        if far_line is not None:
            far_line.relay = pair
        return pair

    def wait(self, pair: Pair) -> None:
        """Wait until `pair` is over. If the wait is ended by something else, the pair is too."""
        hub = get_hub()
        pair.waiter = getcurrent()
        try:
            while not pair.ended:
                hub.switch()
        finally:
            pair.waiter = None
            if not pair.ended:
                self._finish(pair, None)
            pair.note()
            pair.release()

    def end(self, pair: Pair, error: BaseException) -> None:
        """End `pair` with `error`, from any greenlet or thread. Its descriptors are not watched any more when this returns."""
        if not pair.ended:
            self._finish(pair, error)
            if not self.inherited:
                self._loop.run_callback_threadsafe(self._settle)

    @property
    def inherited(self) -> bool:
        """Whether this process was forked from the one that the engine is of."""
        return os.getpid() != self._process

    @property
    def is_over(self) -> bool:
        """Whether its hub is destroyed, or this process is a child of the one that the engine is of."""
        try:
            return self._loop.activecnt < 0 or self.inherited
        except ValueError:
            return True

    def close(self) -> None:
        """Close the epoll. Idempotent."""
        self._poller.close()

    def sweep(self, now: float) -> None:
        """End the pairs whose time is up. `now` is `time.monotonic()`; called about once a second."""
        for way in list(self._ways):
            if way is not None and not way.pair.ended and way.pair.left is way:
                self._check(way.pair, now)
        if self._over:
            self._loop.run_callback(self._settle)

    def forsake(self) -> None:
        """In a forked child: close the child's copies. The connections of lifelines are given up by the sweeper."""
        for way in self._ways:
            if way is not None:
                if way.pair.right is way and way.pair.far_line is None:
                    close_descriptor(way.source)
                self.pipes.drop(way)
        self.pipes.close()
        self._ways.clear()
        self.close()

    # In the hub

    def _pump(self) -> None:
        """Move what can be moved now."""
        self._now = clock()
        self._turning = False
        if self._again:
            again, self._again = self._again, []
            for way in again:
                way.queued = False
                self._run(way)
        count = poll(self._epoll)
        for at in range(count):
            here = self._ways[event_fd(at)]
            if here is None:
                continue
            mask = event_mask(at)
            there = here.other
            if mask & _WHOLE:
                here.whole = True
            if mask & _INPUT:
                here.readable = True
            if mask & _OUTPUT:
                there.writable = True
            self._run(here)
            if there.readable or there.held is not None or there.piped or there.ended:
                self._run(there)
            if mask & _FAILED and here.ended and not there.done and not here.pair.ended:
                there.readable = there.whole = True  # its end may have come meanwhile, and then nothing is lost
                self._run(there)
                if not there.done and not there.pair.ended:
                    self._target_failed(there, socket_error(here.source) or errno.ECONNRESET)
        if self._again and not self._turning:
            self._turning = True
            self._turn.start(self._pump)
        if self._over:
            self._settle()

    def _run(self, way: Way) -> None:
        try:
            if self._flow(way) and not way.queued:
                way.queued = True
                self._again.append(way)
        except Exception as error:  # MemoryError: bytes may be lost
            pair = way.pair
            if pair is None or pair.ended:
                raise
            self._finish(pair, error)

    def _flow(self, way: Way) -> bool:
        """Move bytes from source to target. Whether there is more to do, in its next turn."""
        pair = way.pair
        if pair is None or pair.ended or way.done:
            return False
        turns = TURNS
        while turns > 0:
            turns -= 1
            # 1. What was read before comes first.
            if way.held is not None or way.piped:
                if not way.writable:
                    return False
                if way.held is not None:
                    count = put_bytes(way.target, way.held, way.offset)
                else:
                    count = move(way.pipe_out, way.target, way.piped)
                if count < 0:
                    if count == -_EAGAIN:
                        way.writable = False
                    else:
                        self._target_failed(way, -count)
                    return False
                way.moved += count
                pair.active_at = self._now
                if way.held is None:
                    way.piped -= count
                else:
                    way.offset += count
                    if way.offset == len(way.held):
                        way.held = None
                        way.offset = 0
                continue
            # 2. The end is passed on when nothing waits any more.
            if way.ended:
                self._pass_on_end(way)
                return False
            if not way.readable or not way.writable:
                self.pipes.give(way)
                return False
            # 3. Read: into the pipe if there is much, or else into the shared buffer.
            most = _PIPE
            if way.throttles is not None:
                most = min([_PIPE] + [throttle.allowed(self._now) for throttle in way.throttles])
                if pair.ended:
                    return False
                if most <= 0:
                    self.pipes.give(way)
                    self._wait_for_tick(way)
                    return False
                turns = 0  # others have their share of the same throttle
            if way.full >= FULL and (way.pipe_in >= 0 or self.pipes.take(way, self._now)):
                count = move(way.source, way.pipe_in, min(most, _PIPE))
                if count > 0:
                    way.piped = count
                    self._note_read(way, pair, count)
                    if count >= _BLOCK:
                        way.full = FULL + PATIENCE
                    else:
                        way.full -= 1
                        if way.full < FULL:
                            way.full = 0
                    if turns <= 0:
                        turns = 1
                    continue
                if count < 0:
                    if count == -_EAGAIN:
                        way.readable = False
                        self.pipes.give(way)
                    else:
                        self._source_failed(way, -count)
                    return False
                way.full = 0
            most = min(most, _BLOCK)
            count = take(way.source, most)
            if count <= 0:
                if not count:
                    way.ended = True
                    pair.active_at = self._now
                    turns += 1
                    continue
                if count == -_EAGAIN:
                    way.readable = False
                    self.pipes.give(way)
                else:
                    self._source_failed(way, -count)
                return False
            self._note_read(way, pair, count)
            if count == _BLOCK:
                way.full += 1
            elif count < most:
                way.full = 0
                if not way.whole:
                    way.readable = False
            sent = put(way.target, count)
            if sent < 0:
                if sent != -_EAGAIN:
                    self._target_failed(way, -sent)
                    return False
                sent = 0
            way.moved += sent
            if sent < count:
                way.held = held(sent, count)
                way.offset = 0
                way.writable = False
        return bool(way.held is not None or way.piped or way.readable or way.ended)

    def _note_read(self, way: Way, pair: Pair, count: int) -> None:
        pair.active_at = self._now
        if way.throttles is not None:
            for throttle in way.throttles:
                throttle.took(count)

    def _pass_on_end(self, way: Way) -> None:
        way.done = True
        self.pipes.give(way)
        pair = way.pair
        if pair.error is not None:
            self._finish(pair, None)
            return
        end_writing(way.target)  # ENOTCONN: the target is gone, and what it sends shows that
        if way.other.done:
            self._finish(pair, None)

    def _source_failed(self, way: Way, number: int) -> None:
        # Its descriptor is the other direction's target.
        self._finish(way.pair, OSError(number, os.strerror(number)))

    def _target_failed(self, way: Way, number: int) -> None:
        pair = way.pair
        if pair.error is None:
            pair.error = OSError(number, os.strerror(number))
        way.held = None
        way.done = True
        self.pipes.drop(way)
        other = way.other
        if other.done:
            self._finish(pair, None)
            return
        if pair.give_up == math.inf:
            pair.give_up = self._now + CUT_GRACE
        other.readable = True  # up to the error
        other.whole = True
        if not other.queued:
            other.queued = True
            self._again.append(other)

    def _finish(self, pair: Pair, error: BaseException | None) -> None:
        """`pair` is over: nothing of it is watched or held any more."""
        if pair.ended:
            return
        pair.ended = True
        if pair.error is None:
            pair.error = error
        self._forget(pair)
        self.pairs -= 1
        if not self.pairs and not self.inherited:
            self._watcher.ref = False
            self._sweeps.stop()
        self._over.append(pair)
        if pair.line is not None:
            pair.line.relay = None
        if pair.far_line is not None:
            pair.far_line.relay = None

    def _forget(self, pair: Pair) -> None:
        for way in (pair.left, pair.right):
            if way.source < len(self._ways) and self._ways[way.source] is way:
                self._ways[way.source] = None
                if not self.inherited:
                    unwatch(self._epoll, way.source)
            way.held = None
            self.pipes.drop(way)
            way.done = True

    def _settle(self) -> None:
        """Tell of the pairs that are over."""
        if not self._over:
            return
        over, self._over = self._over, []
        left: list[Pair] = []
        for pair in over:
            if pair.waiter is not None:
                self._loop.run_callback(self._wake, pair)
            elif pair.owner is not None:
                left.append(pair)
            else:
                pair.release()
        if left:
            gevent.spawn_raw(self._tell, left)

    def _wake(self, pair: Pair) -> None:
        if pair.waiter is not None:
            pair.waiter.switch()

    def _tell(self, over: list[Pair]) -> None:
        for pair in over:
            assert pair.owner is not None
            try:
                pair.note()
                pair.owner.end(pair)
                pair.release()
            except Exception:  # the others have to be told too
                log.exception("the end of a relay has failed")

    # Time

    def _sweep_now(self) -> None:
        self._pump()  # what has come in time is moved first, also if the loop was held up
        self.sweep(self._now)

    def _check(self, pair: Pair, now: float) -> None:
        for line in (pair.line, pair.far_line):
            if line is not None and line.deadline < now:
                self._finish(pair, Expired("the deadline of this phase is over"))
                return
        if now >= pair.give_up:
            self._finish(pair, None)
            return
        half_closed = pair.half_closed
        limit = min(pair.idle_timeout, pair.fin_timeout) if half_closed else pair.idle_timeout
        if now - pair.active_at < limit:
            return
        # What the kernel has of what was sent may be moving, however slowly.
        under_way = unacknowledged(pair.left.source) + unacknowledged(pair.right.source)
        if under_way != pair.under_way:
            pair.under_way = under_way
            pair.active_at = now
            return
        silence = "one side has ended, and no byte came from the other" if half_closed else "no byte in either direction"
        self._finish(pair, Expired(f"{silence} for {limit:g} s"))

    def _wait_for_tick(self, way: Way) -> None:
        if way.waits:  # more packets may come meanwhile
            return
        way.waits = True
        self._throttled.append(way)
        if not self._ticking:
            self._ticking = True
            self._tick.again(self._tick_now)

    def _tick_now(self) -> None:
        self._now = clock()
        throttled, self._throttled = self._throttled, []
        for way in throttled:
            way.waits = False
            self._run(way)
        if not self._throttled:
            self._ticking = False
            self._tick.stop()
        if self._again or self._over:
            self._pump()


_engines: dict[Any, Engine] = {}  # by hub


def engine_here() -> Engine:
    """The engine of this thread's hub."""
    hub = get_hub()
    engine = _engines.get(hub)
    if engine is None or engine.inherited:
        for other in [other for other, its in _engines.items() if its.is_over]:
            _engines.pop(other).close()
        engine = _engines[hub] = Engine()
    return engine
