# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.h2.body cimport StreamBody
from muxwsgi.http.h2.budget cimport Budget
from muxwsgi.http.h2.decoder cimport Decoder
from muxwsgi.http.h2.field cimport Field
from muxwsgi.http.h2.request cimport Requests, check_trailers
from muxwsgi.http.h2.sender cimport Sender
from muxwsgi.http.h2.stream cimport Stream
from muxwsgi.http.h2.windows cimport Windows

cdef int RESET, SMALL
cdef int NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL
cdef int ENHANCE_YOUR_CALM
cdef int DATA, HEADERS, PRIORITY_FRAME, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION, PRIORITY_UPDATE
cdef int END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED, LENGTH
cdef long long FRAME_AT_MOST, WINDOW_AT_MOST, BLOCK_AT_MOST
cdef int CONTINUATIONS_AT_MOST, CLOSED_AT_MOST, PRIORITIES_AT_MOST, SMALL_AT_MOST
cdef int _BOTH_ENDED, _RESET_BY_US
cdef bytes PREFACE


cdef class Engine:
    cdef readonly Sender sender
    cdef readonly Budget budget
    cdef readonly dict streams
    cdef readonly int running
    cdef readonly long long last
    cdef readonly object fault
    cdef readonly bint draining, refusing, peer_connects, peer_leaves, in_block, gone_heard, settled
    cdef readonly long long peer_last, peer_code, peer_streams
    cdef public bint opened
    cdef readonly int pings, earns
    cdef object _reader, _http
    cdef int _limit, _block_flags
    cdef long long _block_size
    cdef Windows _windows
    cdef unsigned int _block_stream
    cdef Requests _requests
    cdef Decoder _decoder
    cdef bytes _buffer
    cdef list _ready, _block
    cdef bint _greeted, _opens
    cdef dict _closed, _priorities

    @cython.locals(at=Py_ssize_t, ready=list)
    cpdef list receive(self, bytes data)
    @cython.final
    @cython.locals(
        data="const unsigned char*", end=Py_ssize_t, at=Py_ssize_t, start=Py_ssize_t, size=Py_ssize_t, kind=int, flags=int,
        number="unsigned int",
    )
    cdef Py_ssize_t _frames(self, bytes whole) except -1
    @cython.final
    @cython.locals(size=Py_ssize_t)
    cdef _other(self, bytes whole, int kind, int flags, unsigned int number, Py_ssize_t start, Py_ssize_t end)
    @cython.final
    @cython.locals(padding=int, depends_on_itself=bint, stream=Stream, how=int)
    cdef _headers(self, bytes whole, int flags, unsigned int number, Py_ssize_t start, Py_ssize_t end)
    @cython.final
    cdef _continuation(self, bytes whole, int flags, unsigned int number, Py_ssize_t start, Py_ssize_t end)
    @cython.final
    @cython.locals(decoder=Decoder, fields=list, flags=int, requests=Requests, stream=Stream, windows=Windows)
    cdef _end_block(self, unsigned int number, bytes block)
    @cython.locals(stream=Stream, body=StreamBody, field=Field)
    cdef _trailers(self, unsigned int number, list fields, int flags)
    cdef _came_late(self, Py_ssize_t size, str what)
    @cython.locals(size=Py_ssize_t, count=Py_ssize_t, stream=Stream, body=StreamBody, ends=bint, windows=Windows)
    cdef _data(self, bytes whole, int flags, unsigned int number, Py_ssize_t start, Py_ssize_t end)
    @cython.final
    @cython.locals(body=StreamBody)
    cdef _peer_ended(self, Stream stream)
    @cython.locals(stream=Stream)
    cpdef taken(self, StreamBody body, long long count)
    @cython.final
    @cython.locals(sender=Sender, stream=Stream)
    cdef _window_update(self, unsigned int number, long long more)
    @cython.final
    @cython.locals(sender=Sender, stream=Stream, more="long long", value="long long", identifier=int, at=Py_ssize_t)
    cdef _settings(self, bytes whole, int flags, unsigned int number, Py_ssize_t start, Py_ssize_t end)
    @cython.final
    cdef _ping(self, int flags, bytes payload)
    @cython.locals(stream=Stream)
    cdef _priority_update(self, unsigned int number, bytes payload)
    @cython.final
    cdef _prioritize(self, Stream stream, str text)
    @cython.locals(stream=Stream)
    cdef _reset_by_peer(self, unsigned int number, long long code)
    @cython.final
    @cython.locals(stream=Stream)
    cdef _stream_fault(self, unsigned int number, int code)
    @cython.final
    cdef _fault(self, Stream stream, int code, str reason)
    cpdef reset(self, Stream stream, long long code, str reason)
    @cython.final
    cdef _put_reset(self, unsigned int number, long long code)
    cdef _fail(self, Stream stream, str reason)
    @cython.final
    cdef _close(self, Stream stream, int how)
    @cython.final
    @cython.locals(closed=dict)
    cdef _remember(self, unsigned int number, int how)
    cpdef finish(self, Stream stream)
    @cython.locals(body=StreamBody)
    cpdef release(self, Stream stream)
    cpdef go_away(self)
    cpdef refuse_new(self)
    cpdef ping(self)
    cpdef end(self, fault)
    @cython.locals(stream=Stream)
    cpdef cancel(self, str reason)
    cpdef close(self)
    @cython.final
    cdef _put_go_away(self, long long last, long long code, bytes reason)
