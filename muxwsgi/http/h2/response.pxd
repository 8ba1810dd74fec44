# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.body cimport Body
from muxwsgi.http.h2.engine cimport Engine
from muxwsgi.http.h2.sender cimport Sender, spelled
from muxwsgi.http.h2.stream cimport Stream
from muxwsgi.http.h2.writing cimport Writing
from muxwsgi.http.response cimport Response

cdef dict _RENDERED
cdef Py_ssize_t OUT_AT_MOST


cdef class H2Response(Response):
    cdef Writing _writer
    cdef Engine _engine
    cdef Sender _sender
    cdef Stream _stream
    cdef bint _ended

    cdef _take(self, Writing writer, Engine engine, Stream stream, Body body)
    @cython.locals(stream=Stream, sender=Sender, block=bytes, size=Py_ssize_t, ends=bint)
    cdef _put_head(self, total, bytes data)
    @cython.locals(sender=Sender)
    cdef bint _fits(self, Py_ssize_t size) except -1
    @cython.locals(stream=Stream)
    cdef _write(self, bytes data, bint end)
    cdef _raise_reset(self)


cdef class UpgradeResponse(H2Response):
    cdef _begin(self, status, headers)


cdef list _pairs(fields)
@cython.locals(response=H2Response)
cpdef H2Response response_to(Writing writer, Engine engine, Stream stream, Body body)
@cython.locals(response=UpgradeResponse)
cpdef UpgradeResponse response_to_upgrade(Writing writer, Engine engine, Stream stream, Body body)
