# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.gateway cimport Gateway
from muxwsgi.http.h2.body cimport NoBody, StreamBody
from muxwsgi.http.h2.engine cimport Engine
from muxwsgi.http.h2.response cimport H2Response, response_to
from muxwsgi.http.h2.sender cimport OwnFields, Sender
from muxwsgi.http.h2.stream cimport Stream
from muxwsgi.http.h2.writing cimport Writing
from muxwsgi.wire.connection cimport Connection
from muxwsgi.wire.lifeline cimport Lifeline
from muxwsgi.wire.ready cimport Ready
from muxwsgi.wire.syscalls cimport clock

cdef int SMALL_READ, LARGE_READ
cdef double _NEVER


@cython.final
cdef class Session:
    cdef Connection _connection
    cdef Lifeline _line
    cdef Gateway _gateway
    cdef object _forwarding, _http, _hub, _loop, _main, _leader, _relief, _away, _error, _ready
    cdef OwnFields _own
    cdef NoBody _no_body
    cdef dict _shared, _taken
    cdef Sender _sender
    cdef Engine _engine
    cdef Writing _writing
    cdef Ready _returned
    cdef bint _reading
    cdef set _waiting_bodies
    cdef long long _heard
    cdef int _read_size
    cdef double _rest_since, _block_since, _gone_at, _pinged

    @cython.locals(engine=Engine, sender=Sender, stream=Stream)
    cpdef _lead(self)
    cpdef _relieve(self)
    cpdef _follow(self)
    cpdef _cut(self)
    @cython.locals(engine=Engine)
    cdef _end(self)
    @cython.locals(engine=Engine)
    cdef bint _is_over(self) except -1
    cdef _go_away(self)
    @cython.locals(engine=Engine, line=Lifeline, deadline=double, data=bytes)
    cdef bytes _read(self)
    @cython.locals(first=Stream, stream=Stream)
    cdef _sort(self)
    @cython.locals(engine=Engine, environ=dict, body=StreamBody, response=H2Response)
    cdef _exchange(self, Stream stream)
    @cython.locals(response=H2Response, began=double, environ=dict)
    cdef _refuse(self, Stream stream, error)
    cdef _note_refusal(self, dict environ, error, long long size, double seconds)
    cpdef malformed(self, list fields, reason)
    @cython.locals(response=H2Response)
    cdef _connect(self, Stream stream, dict environ)
    cpdef _note_taken(self, Lifeline line)
    cdef _note_rest(self)
    @cython.locals(engine=Engine, body=StreamBody, stream=Stream)
    cpdef sweep(self, double now)
    cpdef drain(self)
    cpdef taken(self, StreamBody body, long long count)
    cpdef continue_(self, StreamBody body)
    cpdef wait_for(self, StreamBody body)


cpdef int _urgency(Stream stream)
