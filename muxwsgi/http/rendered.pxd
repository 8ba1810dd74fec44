# Types for the compiled build: see docs/compiled.md.

import cython


@cython.final
cdef class Rendered:
    cdef list headers
    cdef bytes block
    cdef int code
    cdef object length
    cdef bint dated, served

    @cython.locals(at=Py_ssize_t, known=tuple)
    cdef bint is_for(self, list headers) except -1
