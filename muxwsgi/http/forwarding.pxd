# Types for the compiled build: see docs/compiled.md.

import cython

cdef class ForwardingReader:
    cdef object _peers, _is_host, _believed, _known, _reserved, _underscored, _header_map
    cdef str _certificate
    cdef tuple _dropped, _keys
    cdef bint _named
    cdef readonly bint needed

    @cython.locals(key=str)
    cpdef read(self, dict environ)
