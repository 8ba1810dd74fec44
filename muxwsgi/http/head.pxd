# Types for the compiled build: see docs/performance.md, "Compiled".

import cython

from muxwsgi.http.fields cimport Fields, is_length


cdef class Head:
    cdef readonly str method
    cdef readonly int minor
    cdef readonly object length
    cdef readonly bint chunked, keep_alive, expects_continue
    cdef object _settings
    cdef Fields _fields
    cdef bytes _method_part, _whole
    cdef dict _whole_environ
    cdef str _good_host
    cdef Py_ssize_t _line_length

    cpdef dict parse(self, bytes raw)
    @cython.locals(
        line_end=Py_ssize_t, method_bytes=bytes, target_bytes=bytes, minor_byte=bytes, method=str, target=str, path=str, query=str,
        fields=Fields, environ=dict, minor=int, host=str, again=bint, before=bytes, mark=Py_ssize_t,
        connection=str,
    )
    cdef dict _parse(self, bytes raw)
    cdef _check_host(self, str host, int minor)


cdef bint _is_target(str text) except -1
@cython.locals(length=str, coding=str)
cdef tuple _framing(dict environ, int minor)
cdef frozenset _USUAL_METHODS
cdef frozenset _OTHER_PROTOCOLS
