# Types for the compiled build: see docs/performance.md, "Compiled".

from muxwsgi.wire.syscalls cimport accept_one


cdef class Room:
    cdef readonly object limit
    cdef public Py_ssize_t taken
    cdef list _waiting
