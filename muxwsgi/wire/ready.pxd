# Types for the compiled build: see docs/compiled.md.

from muxwsgi.wire.syscalls cimport check_descriptor


cdef class Ready:
    cdef object _hub, _failure, _waiter
    cdef bint _armed, _closed, _fired

    cdef _begin(self, hub)
    cpdef wait(self, timeout=*)
    cpdef check_thread(self)
    cpdef notify(self)
    cpdef fail(self, error)
    cpdef close(self)
    cpdef int unsent(self) except -1
    cpdef bint is_ready(self) except -1
    cpdef _arm(self)


cdef class DescriptorReady(Ready):
    cdef int _fd, _events
    cdef object _watcher

    cpdef to_write(self)


cdef class Pace:
    cdef double _grace, _rate
    cdef public double patience

    cpdef moved(self, count, double waited)


cdef class WritePace(Pace):
    cdef object _queue
    cdef long long _size
    cdef double _at

    cpdef begin(self, double now)
    cpdef look(self, double now)


cdef class Lifeline:
    cdef readonly Ready reader
    cdef Ready _writer
    cdef public double deadline, min_rate, rate_grace
    cdef public object idle_timeout, queue, service, top
    cdef public WritePace write_pace
    cdef public bint reset_at_close, resting
    cdef public long long under_way
    cdef long long _moved
    cdef int _unsent
    cdef double _active_at

    cpdef fail(self, error)
    cpdef drain(self)
    cpdef close(self)
    cpdef check_writer(self, double now)
    cpdef check_idle(self, double now)
