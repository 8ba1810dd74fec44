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
