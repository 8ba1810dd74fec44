# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.events cimport Events
from muxwsgi.wire.connection cimport Connection
from muxwsgi.wire.lifeline cimport Lifeline
from muxwsgi.wire.syscalls cimport clock


cdef class Mux:
    cdef object __weakref__
    cdef readonly object name, fallback, silence
    cdef readonly double sniff_timeout, patience
    cdef readonly Py_ssize_t peek_limit
    cdef readonly tuple routes, alpn
    cdef dict _by_alpn
    cdef tuple _matchers, _said, _prompts
    cdef list _by_first
    cdef dict _by_start
    cdef double _silence_after
    cdef object _only
    cdef Events _events

    cpdef over(self, Connection connection, error, route, double began)
    @cython.locals(line=Lifeline, seen=bytes, data=bytes, began=double, deadline=double, at_most=double, ended=bint, late=bint)
    cdef _look(self, Connection connection)
    cdef _prompt(self, Connection connection, bytes seen)
    cdef bint _silent(self, Connection connection) except -1
    @cython.locals(could=Py_ssize_t, late=bint, at=Py_ssize_t, asked=list)
    cpdef decide(self, bytes data, bint final=*)
    @cython.locals(asked=list)
    cdef list _asked(self, Py_ssize_t first)
    cdef list _still_asked(self, list asked, bytes start)
    @cython.locals(said=dict)
    cdef _matched(self, Py_ssize_t at, Py_ssize_t count)
    cdef _ask(self, Py_ssize_t at, matcher, bytes data)
    cpdef decide_by_alpn(self, protocol)
    cdef _decided(self, route, reason, str why)


cdef Py_ssize_t _FEW, _START, _STARTS


cdef list _not_denied(list asked, bytes start)
cdef _agreed_protocol(Connection connection)
cdef str _count(Py_ssize_t n)
