# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.body cimport Body
from muxwsgi.http.h1.incoming cimport Incoming
from muxwsgi.wire.connection cimport Connection
from muxwsgi.wire.pace cimport Pace


cdef class MessageBody(Body):
    cdef Incoming _incoming
    cdef Pace _pace

    cdef _begin(self, Incoming incoming, settings, bint expects_continue)
    cdef bytes _more(self)
    cdef bytes _recv_in_time(self, Connection connection)


cdef class EmptyBody(MessageBody):
    pass


cdef class LengthBody(MessageBody):
    cdef readonly long long left


cdef class CloseBody(MessageBody):
    pass


cdef class ChunkedBody(MessageBody):
    cdef list _pieces
    cdef bytes _block, _held
    cdef Py_ssize_t _at, _state
    cdef long long _chunks, _fed, _left
    cdef bint _in_trailers

    @cython.locals(before="long long", used=Py_ssize_t)
    cdef _step(self, bytes data)
    @cython.locals(at=Py_ssize_t, held=Py_ssize_t, end=Py_ssize_t, stop="long long", left="long long", pieces=list)
    cdef Py_ssize_t _take(self, bytes data) except? -1
    @cython.locals(end=Py_ssize_t)
    cdef Py_ssize_t _take_trailers(self, bytes data, Py_ssize_t at, Py_ssize_t searched) except -1
