# Types for the compiled build: see docs/performance.md, "Compiled".

import cython


cdef class Head:
    cdef readonly str method
    cdef readonly int minor
    cdef readonly object length
    cdef readonly bint chunked, keep_alive, expects_continue
    cdef object _settings
    cdef bytes _block
    cdef dict _known, _known_environ, _shared
    cdef str _good_host
    cdef Py_ssize_t _line_length, _lines, _field_size

    cpdef dict parse(self, bytes raw)
    @cython.locals(
        line_end=Py_ssize_t, method_bytes=bytes, target_bytes=bytes, minor_byte=bytes, method=str, target=str, path=str, query=str,
        size=Py_ssize_t, fields=dict, environ=dict, known_environ=dict, minor=int, host=str,
    )
    cdef dict _parse(self, bytes raw)
    @cython.locals(lines=Py_ssize_t, found=dict)
    cdef _read_fields(self, bytes raw, Py_ssize_t line_end, dict fields)
    cdef _check_host(self, str host, int minor)


@cython.locals(keys=dict, key=str, text=str)
cdef _add_field(dict fields, bytes name, bytes value)
cdef frozenset _SINGLETONS
cdef frozenset _OTHER_PROTOCOLS
