# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.body cimport Body
from muxwsgi.http.gateway cimport Gateway
from muxwsgi.http.h1.head cimport Head
from muxwsgi.http.h1.incoming cimport Incoming
from muxwsgi.http.h1.response cimport H1Response, ResponseDefaults, put_refusal, response_to
from muxwsgi.wire.connection cimport Connection
from muxwsgi.wire.lifeline cimport Lifeline
from muxwsgi.wire.syscalls cimport clock


cdef class HTTP1:
    cdef object _settings
    cdef Gateway _gateway
    cdef ResponseDefaults _defaults
    cdef bint _draining
    cdef Py_ssize_t _head_at_most

    @cython.locals(line=Lifeline)
    cdef _serve(self, Connection connection, double patience, double due)
    @cython.locals(line=Lifeline, buffer=bytes, end=Py_ssize_t)
    cdef bytes _read_head(self, Incoming incoming, double patience, double due)
    @cython.locals(line=Lifeline)
    cdef bytes _read_late_head(self, Incoming incoming)
    cdef bytes _read_rest_of_head(self, Incoming incoming, bytes buffer)
    @cython.locals(response=H1Response, connection=Connection)
    cdef bint _exchange(self, Incoming incoming, Head head, Body body, dict environ) except -1
    cdef Body _body(self, Incoming incoming, Head head, dict environ)
    cdef bint _drained(self, Incoming incoming, Body body) except -1


cdef double _NEVER
