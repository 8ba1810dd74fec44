# Types for the compiled build: see docs/compiled.md.

from muxwsgi.http.body cimport Body
from muxwsgi.http.h1.incoming cimport Incoming
from muxwsgi.http.response cimport Response


cdef class Takeover:
    cdef Body _body
    cdef Incoming _incoming
    cdef Response _response
    cdef object _socket
    cdef bint _over
    cdef readonly bint taken

    cpdef end(self)
