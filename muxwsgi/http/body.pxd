# Types for the compiled build: see docs/compiled.md.

from muxwsgi.wire.connection cimport Connection
from muxwsgi.wire.ready cimport Pace


cdef class Incoming:
    cdef public bytes buffer
    cdef readonly Connection connection

    cpdef bytes take(self)
    cpdef give_back(self)


cdef class Body:
    cdef Incoming _incoming
    cdef Pace _pace
    cdef object _settings
    cdef readonly bint done
    cdef readonly object fault
    cdef readonly long long received
    cdef readonly dict trailers
    cdef readonly bint withheld

    cpdef bytes read_some(self, Py_ssize_t most)
    cdef bytes _read(self, Py_ssize_t most)
    cpdef forgo_continue(self)
    cdef bytes _more(self)
    cdef bytes _recv_in_time(self, Connection connection)
    cdef _count(self, Py_ssize_t count)


cdef class EmptyBody(Body):
    pass


cdef class LengthBody(Body):
    cdef readonly long long left


cdef class CloseBody(Body):
    pass


cdef class ChunkedBody(Body):
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


cdef class Input:
    cdef readonly bint closed
    cdef Body _body
    cdef bytearray _buffer

    cpdef bytes read(self, size=*)
    cpdef bytes read1(self, size=*)
    cpdef bytes readline(self, size=*)
    cdef bytes _gather(self, Py_ssize_t size)
    cdef bytes _cut(self, Py_ssize_t count)
