# Types for the compiled build: see docs/compiled.md.

from muxwsgi.http.body cimport Body


cdef class Input:
    cdef readonly bint closed
    cdef Body _body
    cdef bytearray _buffer

    cpdef bytes read(self, size=*)
    cpdef bytes read1(self, size=*)
    cpdef bytes readline(self, size=*)
    cdef bytes _gather(self, Py_ssize_t size)
    cdef bytes _cut(self, Py_ssize_t count)
