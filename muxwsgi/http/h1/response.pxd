# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.body cimport Body
from muxwsgi.http.response cimport Response
from muxwsgi.wire.connection cimport Connection
from muxwsgi.wire.syscalls cimport clock, second


@cython.final
cdef class ResponseDefaults:
    cdef readonly bytes server, date, date_and_server
    cdef public bint closing
    cdef readonly double linger
    cdef long long _second

    @cython.locals(now="long long")
    cdef refresh(self)


cdef dict _RENDERED
cdef Py_ssize_t JOIN_AT_MOST


cdef class H1Response(Response):
    cdef Connection _connection
    cdef ResponseDefaults _defaults
    cdef int _minor
    cdef bint _chunked

    cdef _take(self, Connection connection, ResponseDefaults defaults, Body body, str method, int minor, bint keep_alive)
    @cython.locals(defaults=ResponseDefaults, body=Body, framing=bytes, ours=bytes, head=bytes)
    cdef _put_head(self, total, bytes data)
    @cython.locals(connection=Connection, before="long long")
    cdef _put_file(self, file, offset, count)
    @cython.locals(count=Py_ssize_t, in_front=Py_ssize_t, first=Py_ssize_t)
    cdef _write(self, bytes head, data)
    @cython.locals(connection=Connection, before="long long")
    cdef _send(self, data, Py_ssize_t in_front, Py_ssize_t count)


@cython.locals(response=H1Response)
cpdef H1Response response_to(Connection connection, ResponseDefaults defaults, Body body, str method, int minor, bint keep_alive)


cpdef Py_ssize_t put_refusal(Connection connection, error, ResponseDefaults defaults) except -1
