# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.h2.encoder cimport Encoder
from muxwsgi.http.h2.frames cimport data_head, frame, head_and_data
from muxwsgi.http.h2.stream cimport Stream
from muxwsgi.wire.syscalls cimport second

cdef int CONTINUATION, DATA, END_HEADERS, END_STREAM, FRAME_AT_MOST, HEADERS, WINDOW_WITHOUT_SETTINGS, KEPT_AT_MOST


@cython.final
cdef class OwnFields:
    cdef readonly bytes server, date
    cdef public bint closing
    cdef long long _second

    @cython.locals(now="long long")
    cpdef long refresh(self) except -1


@cython.final
cdef class Sender:
    cdef list _out
    cdef OwnFields _own
    cdef readonly Encoder encoder
    cdef public long long window, initial
    cdef public Py_ssize_t frame_at_most, size
    cdef public bint due
    cdef dict _kept
    cdef bytes _head, _head_block
    cdef long long _head_total, _head_second, _head_changes
    cdef bint _dated, _served

    @cython.locals(out=list)
    cpdef take(self)
    cpdef control(self, int kind, int flags, unsigned int stream, bytes payload)
    @cython.locals(now="long long", encoder=Encoder, before="long long", part=bytes, added=list, head=bytes, kept=tuple, settled=bint)
    cpdef bytes head(self, bytes block, long long total, bint dated, bint served)
    @cython.locals(size=Py_ssize_t, made=bytes)
    cpdef respond(self, Stream stream, bytes block, bytes data, bint end)
    cpdef fields(self, Stream stream, list pairs, bint end)
    @cython.locals(size=Py_ssize_t)
    cpdef data(self, Stream stream, data, bint end)
    @cython.locals(most=Py_ssize_t, place=Py_ssize_t, left=Py_ssize_t, size=Py_ssize_t, count=Py_ssize_t, parts=list)
    cpdef Py_ssize_t file(self, Stream stream, int fd, Py_ssize_t offset, Py_ssize_t room, bint end, bytearray memory) except -1
    @cython.locals(most=Py_ssize_t, at=Py_ssize_t)
    cdef _put_block(self, unsigned int stream, bytes block, int flags)


cpdef bytes spelled(str status, list fields)
cdef list _pairs(bytes block)
