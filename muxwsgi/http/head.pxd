# Types for the compiled build: see docs/performance.md, "Compiled".

cdef class Head:
    cdef readonly str method
    cdef readonly int minor
    cdef readonly object length
    cdef readonly bint chunked, keep_alive, expects_continue


cdef class HeadParser:
    cdef dict _fields
    cdef object _good_host, _settings, _sink

    cpdef Head parse(self, bytes raw, dict environ)
    cdef Head _parse(self, bytes raw, dict environ)
    cdef _check_host(self, host, int minor)
