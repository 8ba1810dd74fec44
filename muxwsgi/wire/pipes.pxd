# Types for the compiled build: see docs/compiled.md.

from muxwsgi.wire.relay_pair cimport Way


cdef class Pipes:
    cdef readonly int made
    cdef list _spare
    cdef double _none_until

    cpdef bint take(self, Way way, double now) except -1
    cpdef give(self, Way way)
    cpdef drop(self, Way way)
