# Types for the compiled build: see docs/compiled.md.

from muxwsgi.wire.pace cimport WritePace
from muxwsgi.wire.ready cimport Ready


cdef class Lifeline:
    cdef readonly Ready reader
    cdef Ready _writer
    cdef public double deadline, min_rate, rate_grace
    cdef public object idle_timeout, queue, service, streams, top, engine, relay
    cdef public list afterwards
    cdef public WritePace write_pace
    cdef public bint reset_at_close, resting, promised, may_leave
    cdef public long long under_way
    cdef long long _moved
    cdef int _unsent
    cdef double _active_at

    cpdef fail(self, error)
    cpdef drain(self)
    cpdef close(self)
    cpdef check_writer(self, double now)
    cpdef check_idle(self, double now)
