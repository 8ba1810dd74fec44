# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.body cimport Body
from muxwsgi.wire.ready cimport Ready


cdef class NoBody(Body):
    cpdef fail(self, fault)


cdef class StreamBody(Body):
    cdef readonly unsigned int stream
    cdef readonly long long length, untaken, came
    cdef public long long left, grown, window
    cdef readonly bint waits
    cdef readonly double deadline
    cdef object _reader, _error, _pace
    cdef Ready _ready
    cdef bint _ended
    cdef bytes _first
    cdef bytearray _rest

    @cython.locals(count=Py_ssize_t)
    cpdef add(self, bytes data)
    cpdef end(self)
    cpdef break_off(self, error)
    cpdef wake(self)
    cpdef expire(self)
    cpdef trailer(self, str name, str value)
    cpdef Ready readiness(self)
    @cython.locals(ready=Ready)
    cpdef bytes take(self, Py_ssize_t most, timeout)
    @cython.locals(data=bytes)
    cdef bytes _read(self, Py_ssize_t most)
    @cython.locals(data=bytes, count=Py_ssize_t)
    cdef bytes _first_bytes(self, Py_ssize_t most)
    @cython.locals(began=double, before="long long")
    cdef _wait(self)
