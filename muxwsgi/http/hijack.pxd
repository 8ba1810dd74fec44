# Types for the compiled build: see docs/compiled.md.

from muxwsgi.http.body cimport Body
from muxwsgi.http.response cimport Response
from muxwsgi.wire.connection cimport Connection


cdef class Hijack:
    cdef Connection _connection
    cdef Body _body
    cdef Response _response
    cdef object _socket
    cdef bint _over
    cdef readonly bint taken

    cpdef end(self)
