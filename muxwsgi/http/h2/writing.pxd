# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.h2.engine cimport Engine
from muxwsgi.http.h2.sender cimport Sender
from muxwsgi.http.h2.stream cimport Stream
from muxwsgi.wire.connection cimport Connection
from muxwsgi.wire.ready cimport Ready
from muxwsgi.wire.syscalls cimport clock

cdef int SMALL_AT_MOST
cdef Py_ssize_t UNREAD_AT, TURN


@cython.final
cdef class Writing:
    cdef Connection _connection
    cdef Engine _engine
    cdef object _http, _hub
    cdef readonly Sender sender
    cdef readonly bint active
    cdef readonly object lost
    cdef Ready _room
    cdef list _waiting
    cdef Stream _called
    cdef long long _turns

    @cython.locals(sender=Sender)
    cpdef write(self)
    cpdef lose(self, error)
    cpdef wait_for_room(self)
    cpdef note_output(self)
    cpdef _write_soon(self)
    cpdef flush_within(self)
    @cython.locals(sender=Sender, count="long long", at="long long", turn="long long", room="long long", last=bint)
    cpdef send(self, Stream stream, bytes data, bint end)
    @cython.locals(sender=Sender, memory=bytearray, at=Py_ssize_t, turn=Py_ssize_t, room=Py_ssize_t, read=Py_ssize_t)
    cpdef Py_ssize_t send_file(self, Stream stream, int fd, Py_ssize_t offset, Py_ssize_t count, bint end) except -1
    @cython.locals(other=Stream)
    cdef bint _gives_way(self, Stream stream, long long turn) except -1
    @cython.locals(best=Stream, stream=Stream)
    cdef Stream _best(self)
    cdef _wait_for_turn(self, Stream stream)
    @cython.locals(best=Stream)
    cpdef pass_turn(self)
    @cython.locals(stream=Stream)
    cpdef sweep(self, double now)
    cdef _begin_wait(self, Stream stream, double now)
    @cython.locals(count="long long")
    cdef _look(self, Stream stream, double now)


cpdef object _left(double give_up)
cdef tuple _order(Stream stream)
