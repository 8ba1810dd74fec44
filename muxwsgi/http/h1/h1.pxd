# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.events cimport Events
from muxwsgi.http.body cimport Body
from muxwsgi.http.h1.incoming cimport Incoming
from muxwsgi.http.h1.head cimport Head
from muxwsgi.http.response cimport Response, Terms
from muxwsgi.http.upgrade cimport Takeover
from muxwsgi.wire.connection cimport Connection
from muxwsgi.wire.lifeline cimport Lifeline
from muxwsgi.wire.syscalls cimport clock


cdef class HTTP1:
    cdef object _app, _settings, _software
    cdef Events _events
    cdef public object errors
    cdef Terms _terms
    cdef bint _draining, _multiprocess
    cdef Py_ssize_t _head_at_most

    @cython.locals(line=Lifeline, buffer=bytes, end=Py_ssize_t)
    cdef bytes _read_head(self, Incoming incoming, double patience, double due)
    cdef bytes _read_rest_of_head(self, Incoming incoming, bytes buffer)
    @cython.locals(response=Response, takeover=Takeover, connection=Connection, began=double, in_order=bint, request=dict, exchanges=tuple, streams=tuple)
    cdef bint _exchange(self, Incoming incoming, Head head, Body body, dict environ, bytes raw) except -1
    cdef Body _body(self, Incoming incoming, Head head, dict environ)
    @cython.locals(connection=Connection)
    cdef bint _answer_for(self, error, Incoming incoming, Body body, Response response, Takeover takeover, bytes raw) except -1
    cdef _log_application_error(self, bytes raw, consequence)
    cdef bint _drained(self, Incoming incoming, Body body) except -1
    cdef Py_ssize_t _refuse(self, Incoming incoming, error) except -1
    cdef _linger(self, Incoming incoming)


cdef double _NEVER
