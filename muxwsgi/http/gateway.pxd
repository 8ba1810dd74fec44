# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.events cimport Events
from muxwsgi.http.body cimport Body
from muxwsgi.http.exchange_counts cimport ExchangeCounts
from muxwsgi.http.hijack cimport Hijack, hijack_of
from muxwsgi.http.response cimport Response
from muxwsgi.wire.connection cimport Connection
from muxwsgi.wire.syscalls cimport clock


cdef class Gateway:
    cdef object _app, _software, _forwarding
    cdef readonly Events events
    cdef public object errors
    cdef bint _multiprocess

    @cython.locals(hijack=Hijack, began=double, in_order=bint, request=dict, exchanges=tuple, streams=tuple, counts=ExchangeCounts)
    cdef bint serve(self, Connection connection, dict environ, Body body, Response response, str target) except -1
    cpdef forwarding(self, Connection connection)
    cpdef note_refusal(self, Connection connection, error)
    cdef bint _answer_for(self, error, Connection connection, Body body, Response response, Hijack hijack, str target) except -1
