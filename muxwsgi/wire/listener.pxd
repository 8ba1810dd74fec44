# Types for the compiled build: see docs/compiled.md.

from muxwsgi.wire.syscalls cimport accept_one, close_descriptor


cdef class Room:
    cdef object __weakref__
    cdef readonly Py_ssize_t taken
    cdef Py_ssize_t _limit
    cdef object _waiting

    cpdef bint is_full(self)
    cpdef wait(self, listener)
    cpdef take(self)
    cpdef free(self)
    cdef _call_next(self)


cdef class Listener:
    cdef object __weakref__
    cdef object _socket, _serve, _server, _service, _hub, _watcher, _pause_timer, _accepted
    cdef tuple _kind
    cdef Room _room
    cdef bint _closed, _pausing, _exhausted, _draining, _serving_them
    cdef int _most

    cpdef resume(self)
    cpdef bint drain(self) except -1
    cpdef Py_ssize_t unserved(self) except -1
    cpdef close(self)
    cdef _stop_watching(self)
    cdef _take_backlog(self)
    cpdef accept_next(self)
    cdef bint _accept(self, int most)
    cdef _serve_one(self, int fd, client)
    cpdef accept(self)
    cdef _pause(self, error)
    cdef _note_empty(self)
