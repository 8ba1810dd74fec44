# Types for the compiled build: see docs/compiled.md.

import cython


cdef class SentFields:
    cdef bytes _head
    cdef Py_ssize_t _at
    cdef list _pairs

    cdef list _read(self)


@cython.locals(fields=list, line=str)
cpdef list fields_of(bytes block)
