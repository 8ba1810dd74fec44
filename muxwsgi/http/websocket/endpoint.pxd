# Types for the compiled build: see docs/compiled.md.

import cython
from muxwsgi.http.websocket.frame cimport Frame, FrameParser, encode_message, message_head
from muxwsgi.http.websocket.messages cimport Messages
from muxwsgi.wire.connection cimport Connection


cdef int _BINARY, _CLOSE, _COMPRESSED_FROM, _FRAMES_AT_ONCE, _PING, _PONG, _TEXT, FRAMES_PER_TURN
cdef Py_ssize_t _BLOCK, _SHORT_BLOCK, BYTES_AT_ONCE, BYTES_INFLATED_PER_TURN, KEPT_AT_MOST, WHOLE_FROM


cdef class WebSocket:
    cdef object __weakref__
    cdef Py_ssize_t _at, _kept_size, _next
    cdef object _close_timeout, _deflate, _ping_interval, _ping_timeout
    cdef list _kept
    # Tests look at these two.
    cdef readonly list _frames
    cdef readonly object _message
    cdef bint _has_received, _is_plain, _much, _pinged, _reading, _sent_close
    cdef bytearray _memory
    cdef Messages _messages
    cdef FrameParser _parser
    cdef bytes _received
    cdef int _taken
    cdef readonly object close_code, close_reason, subprotocol
    cdef readonly Connection connection

    cpdef receive(self, timeout=*)
    @cython.locals(opcode=int, rsv=int, data=bytes, frame=bytes)
    cpdef send(self, message)
    cpdef ping(self, bytes data=*)
    cdef _begin_reading(self)
    @cython.locals(frame=Frame)
    cdef _take_frame(self, give_up)
    cdef _read(self, give_up)
    @cython.locals(connection=Connection, count=Py_ssize_t, memory=bytearray)
    cdef _read_once(self, give_up)
    @cython.locals(begin=Py_ssize_t, end=Py_ssize_t)
    cdef _parse(self)
    @cython.locals(hub=object, memory=bytearray)
    cdef bytearray _shared_memory(self)
    @cython.locals(parser=FrameParser, frames=list, at=Py_ssize_t, end=Py_ssize_t)
    cdef _parse_memory(self, bytearray memory, Py_ssize_t count)
    cdef _take_what_has_come(self)
    @cython.locals(number=int)
    cdef _handle(self, Frame frame)
    cdef _check_open(self)
    cdef _fail(self, error)
    cdef _keep(self, bytes frame)
    cdef _write(self, bytes frame)
    @cython.locals(kept=list)
    cdef _write_kept(self)
    cdef _begin_close(self, int code, reason)
    cdef _end(self, int code, reason)
