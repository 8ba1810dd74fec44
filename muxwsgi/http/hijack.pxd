# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.body cimport Body
from muxwsgi.http.response cimport Response
from muxwsgi.wire.connection cimport Connection


@cython.final
cdef class Hijack:
    cdef readonly Connection connection
    cdef Body _body
    cdef Response _response
    cdef object _at_end
    cdef object _socket
    cdef bint _over
    cdef readonly bint taken

    cdef _take(self, Connection connection, Body body, Response response)
    cpdef bint end(self, bint failed=*) except -1


@cython.locals(hijack=Hijack)
cpdef Hijack hijack_of(Connection connection, Body body, Response response)
