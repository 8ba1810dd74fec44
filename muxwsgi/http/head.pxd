# Types for the compiled build: see docs/performance.md, "Compiled".

import cython


cdef class Head:
    cdef readonly str method
    cdef readonly int minor
    cdef readonly object length
    cdef readonly bint chunked, keep_alive, expects_continue
    cdef object _settings
    cdef bytes _block, _method_part, _whole
    cdef dict _known, _shared, _template, _whole_environ
    cdef str _good_host
    cdef Py_ssize_t _line_length, _lines, _field_size

    cpdef dict parse(self, bytes raw)
    @cython.locals(
        line_end=Py_ssize_t, method_bytes=bytes, target_bytes=bytes, minor_byte=bytes, method=str, target=str, path=str, query=str,
        size=Py_ssize_t, fields=dict, environ=dict, template=dict, minor=int, host=str, again=bint, before=bytes, mark=Py_ssize_t,
        connection=str,
    )
    cdef dict _parse(self, bytes raw)
    @cython.locals(template=dict)
    cdef dict _environ_with(self, dict fields)
    @cython.locals(lines=Py_ssize_t, sink=_Sink)
    cdef _read_fields(self, bytes raw, Py_ssize_t line_end, dict fields)
    cdef _check_host(self, str host, int minor)


cdef class _Sink:
    cdef dict _fields
    cdef bytes repeated

    @cython.locals(keys=dict, fields=dict, key=str, text=str)
    cpdef on_header(self, bytes name, bytes value)


cdef bint _is_target(str text) except -1
cdef _feed(parser, bytes raw)
@cython.locals(length=str, coding=str)
cdef tuple _framing(dict fields, int minor)
cdef frozenset _SINGLETONS
cdef frozenset _OTHER_PROTOCOLS
