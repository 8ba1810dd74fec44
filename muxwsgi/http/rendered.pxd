# Types for the compiled build: see docs/compiled.md.

import cython


cdef class Rendered:
    cdef list headers
    cdef bytes block
    cdef int code
    cdef object length
    cdef tuple stated

    @cython.locals(at=Py_ssize_t, known=tuple)
    cdef bint is_for(self, list headers) except -1
