# Types for the compiled build: see docs/compiled.md.

import cython


@cython.no_gc  # it holds pairs of strings, and those below what these are made of: no circle can go through it
cdef class SentFields:
    cdef list _pairs

    cdef list _parse(self)
    cdef list _read(self)
