# Types for the compiled build: see docs/performance.md, "Compiled".

import cython

from muxwsgi.wire.connection cimport Connection
from muxwsgi.wire.syscalls cimport clock


cdef class Mux:
    cdef object __weakref__
    cdef readonly object name, fallback, silence, sniff_timeout, peek_limit
    cdef readonly tuple routes, alpn
    cdef dict _by_alpn
    cdef object _on_decision, _on_refusal

    @cython.locals(seen=bytes, data=bytes, deadline=double, ended=bint)
    cdef _look(self, Connection connection)
    cpdef decide(self, bytes data, bint final=*)
    cpdef decide_by_alpn(self, protocol)
    cdef _decided(self, route, reason, str why)


cdef _agreed_protocol(Connection connection)
cdef _ask(route, bytes data)
cdef str _count(Py_ssize_t n)
