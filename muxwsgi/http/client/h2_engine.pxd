# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.h2.body cimport StreamBody
from muxwsgi.http.h2.engine cimport Engine
from muxwsgi.http.h2.field cimport Field
from muxwsgi.http.h2.stream cimport Stream
from muxwsgi.http.h2.windows cimport Windows

cdef int RESET_BY_PEER


cdef class ClientEngine(Engine):
    cdef object _responses
    cdef unsigned int _next
    cdef int _fields_at_most
    cdef set _begun
    cdef long long _late_bytes, _late_blocks
    cdef readonly set refused

    @cython.locals(stream=Stream, windows=Windows, body=StreamBody)
    cpdef open(self, str method, list pairs, bint ends, protocol)
    @cython.locals(stream=Stream, body=StreamBody)
    cdef _trailers(self, unsigned int number, list fields, int flags)
    @cython.locals(stream=Stream)
    cdef _data(self, bytes whole, int flags, unsigned int number, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(each=Field)
    cdef _head(self, list fields)
    @cython.locals(body=StreamBody)
    cpdef reset(self, Stream stream, long long code, str reason)
    cdef _came_late(self, Py_ssize_t size, str what)
    @cython.locals(stream=Stream)
    cdef _reset_by_peer(self, unsigned int number, long long code)
    cdef _priority_update(self, unsigned int number, bytes payload)
    cdef _fail(self, Stream stream, str reason)
    @cython.locals(stream=Stream, each=Stream)
    cpdef leave_above(self)
    cpdef release(self, Stream stream)
