# Types for the compiled build: see docs/compiled.md.

import cython
from muxwsgi.http.websocket.frame cimport Frame


cdef class Fragments:
    cdef object _inflater
    cdef public bint compressed, under_way

    @cython.locals(continues=bint, number=int)
    cpdef bint begins(self, Frame frame) except -1
    cpdef content(self, Frame frame)


cdef class Messages:
    cdef Py_ssize_t _at_most
    cdef bytearray _content
    cdef object _decoder
    cdef Fragments _fragments
    cdef public Py_ssize_t inflated

    @cython.locals(content=bytearray, block=bytes)
    cpdef add(self, Frame frame)
    @cython.locals(number=int)
    cdef _whole(self, Frame frame)
    cdef _check_size(self, Py_ssize_t size)
    cdef _check_text(self, bytes block, bint final)
