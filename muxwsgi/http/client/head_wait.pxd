# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.wire.lifeline cimport Lifeline


@cython.final
cdef class HeadWait:
    cdef Lifeline _line
    cdef double _outer, _timeout
    cdef int _count, _limit
    cdef readonly bint waiting

    cpdef begin(self)
    cpdef set_deadline(self)
    @cython.locals(status=int)
    cpdef bint is_final(self, head, on_interim) except -1
    cpdef end(self)
