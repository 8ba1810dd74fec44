# Types for the compiled build: see docs/compiled.md.

cdef class Events:
    cdef readonly tuple accepted, decided, refused, handshake, exchange, stream, handover, closed
    cdef public object counts
