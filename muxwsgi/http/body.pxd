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
    cdef bytes _block, _tail
    cdef Py_ssize_t _at
    cdef long long _chunks, _fed
    cdef bint _in_trailers
    cdef object _parser

    cdef _step(self, bytes data)
    cdef Py_ssize_t _feed(self, bytes data, Py_ssize_t start) except -1


cdef class Input:
    cdef readonly bint closed
    cdef Body _body
    cdef bytearray _buffer

    cpdef bytes read(self, size=*)
    cpdef bytes read1(self, size=*)
    cpdef bytes readline(self, size=*)
    cdef bytes _gather(self, Py_ssize_t size)
    cdef bytes _cut(self, Py_ssize_t count)
