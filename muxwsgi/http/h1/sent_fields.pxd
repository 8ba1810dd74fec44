# Types for the compiled build: see docs/compiled.md.

import cython


@cython.final
@cython.no_gc  # it holds bytes and pairs of strings: no circle can go through it
cdef class SentFields:
    cdef bytes _head
    cdef Py_ssize_t _at
    cdef list _pairs

    cdef _take(self, bytes head, Py_ssize_t at)
    cdef list _read(self)


@cython.locals(fields=SentFields)
cpdef SentFields sent_fields(bytes head, Py_ssize_t at)


@cython.locals(fields=list, line=str)
cpdef list fields_of(bytes block)
