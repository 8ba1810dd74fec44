# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.wire.pipes cimport Pipes
from muxwsgi.wire.relay_calls cimport end_writing, event_fd, event_mask, held, move, poll, put, put_bytes, socket_error, take, unwatch, watch
from muxwsgi.wire.relay_pair cimport Pair, Way
from muxwsgi.wire.syscalls cimport clock, close_descriptor


cdef int TURNS, FULL, PATIENCE, _EAGAIN, _FAILED, _INPUT, _OUTPUT, _WHOLE, _BLOCK, _PIPE


cdef class Engine:
    cdef object __weakref__
    cdef readonly Py_ssize_t pairs
    cdef int _process, _epoll
    cdef list _ways, _again, _throttled, _over
    cdef readonly Pipes pipes
    cdef double _now
    cdef bint _turning, _ticking
    cdef object _loop, _poller, _watcher, _turn, _tick, _sweeps

    @cython.locals(way=Way)
    cpdef sweep(self, double now)
    @cython.locals(again=list, way=Way, here=Way, there=Way, count=int, at=int, mask=int)
    cpdef _pump(self)
    cdef _run(self, Way way)
    @cython.locals(pair=Pair, turns=int, count=int, sent=int, most=int)
    cdef bint _flow(self, Way way) except -1
    cdef _note_read(self, Way way, Pair pair, int count)
    @cython.locals(pair=Pair)
    cdef _pass_on_end(self, Way way)
    cdef _source_failed(self, Way way, int number)
    @cython.locals(pair=Pair, other=Way)
    cdef _target_failed(self, Way way, int number)
    cdef _finish(self, Pair pair, error)
    @cython.locals(way=Way)
    cdef _forget(self, Pair pair)
    @cython.locals(pair=Pair)
    cpdef _settle(self)
    @cython.locals(limit=double, under_way=int)
    cdef _check(self, Pair pair, double now)
    cdef _wait_for_tick(self, Way way)
    @cython.locals(throttled=list, way=Way)
    cpdef _tick_now(self)
