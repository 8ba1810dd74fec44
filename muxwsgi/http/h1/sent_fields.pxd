# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.sent_fields cimport SentFields


@cython.no_gc
cdef class FieldLines(SentFields):
    cdef bytes _head
    cdef Py_ssize_t _at

    cdef _take(self, bytes head, Py_ssize_t at)
    cdef list _parse(self)


@cython.locals(fields=FieldLines)
cpdef FieldLines sent_fields(bytes head, Py_ssize_t at)


@cython.locals(fields=list, line=str)
cpdef list fields_of(bytes block)
