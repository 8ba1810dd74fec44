# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.body cimport Body
from muxwsgi.http.h2.body cimport StreamBody
from muxwsgi.http.h2.engine cimport Engine
from muxwsgi.http.h2.sender cimport Sender
from muxwsgi.http.h2.stream cimport Stream
from muxwsgi.http.h2.writing cimport Writing
from muxwsgi.wire.connection cimport Connection
from muxwsgi.wire.lifeline cimport Lifeline
from muxwsgi.wire.syscalls cimport clock


cdef class Takeover(Body):
    cdef readonly Connection connection
    cdef Connection _below
    cdef Writing _writing
    cdef Engine _engine
    cdef Stream _stream
    cdef object _begun

    cdef bytes _read(self, Py_ssize_t most)
    @cython.locals(connection=Connection, transport=StreamTransport)
    cpdef hand_over(self)
    cpdef finish(self, error)


cdef class StreamLifeline(Lifeline):
    cdef Stream _stream


@cython.final
cdef class StreamTransport:
    cdef readonly Lifeline lifeline
    cdef StreamBody _body
    cdef Engine _engine
    cdef Stream _stream
    cdef Writing _writing
    cdef object _closed, _turn
    cdef bytes _head
    cdef bint _ended, _unread

    @cython.locals(sender=Sender)
    cdef Py_ssize_t _room(self) except -1
    cdef bytes _after_head(self, bytes data)
    @cython.locals(stream=Stream)
    cdef _send_head(self, head)
    @cython.locals(stream=Stream)
    cdef _end(self)
    cdef _reset(self, str reason)
