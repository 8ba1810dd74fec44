# Types for the compiled build: see docs/compiled.md.

from muxwsgi.wire.connection cimport Connection


cdef class Incoming:
    cdef public bytes buffer
    cdef readonly Connection connection

    cpdef bytes take(self)
    cpdef give_back(self)
