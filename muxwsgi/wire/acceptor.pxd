# Types for the compiled build: see docs/compiled.md.

# By another name: `Connection` is looked up in the module when it is called.
from muxwsgi.wire.connection cimport Connection as AcceptedConnection
from muxwsgi.wire.room cimport AcceptGate, Room
from muxwsgi.wire.syscalls cimport accept_one, close_descriptor


cdef class Acceptor:
    cdef object __weakref__
    cdef public object pool, serve, service, spawn
    cdef object _owner, _socket, _server, _hub, _watcher, _pause_timer, _accepted, _gate_timer
    cdef AcceptGate _gate
    cdef tuple _kind
    cdef Room _room
    cdef bint _pausing, _waits_for_room, _stood_back, _exhausted, _delayed, _draining, _serving_them
    cdef int _most, _at_most, _failed, _ticks

    cpdef start(self, listening)
    cpdef stop(self)
    cpdef close(self)
    cpdef bint take_backlog(self) except -1
    cpdef bint serve_accepted(self) except -1
    cpdef Py_ssize_t unserved(self) except -1
    cdef _wait_for_room(self)
    cdef bint _pool_is_full(self) except -1
    cpdef accept_next(self)
    cdef _wait_for_pool(self)
    cdef Py_ssize_t _admitted(self) except -1
    cdef bint _accept(self, int most)
    cdef _note_failure(self, error, bint accepting)
    cdef _serve_one(self, int fd, client)
    cpdef begin(self, AcceptedConnection connection)
    cpdef _run_in_place(self, AcceptedConnection connection)
    cpdef over(self, AcceptedConnection connection, error)
    cpdef accept(self)
    cdef _pause(self, error)
    cdef _note_success(self)
    cdef _note_empty(self)
