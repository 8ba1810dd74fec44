# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.wire.syscalls cimport clock

cdef double PER_SECOND


@cython.final
cdef class Budget:
    cdef readonly int left
    cdef double _at

    @cython.locals(now=double, earned=int)
    cpdef spend(self, int points, str what)
    cpdef earn(self, int points)
