# Types for the compiled build: see docs/compiled.md.

import cython
from cpython.bytes cimport PyBytes_AS_STRING

from muxwsgi.http.h1.fields cimport Fields, is_length
from muxwsgi.http.h1.sent_fields cimport sent_fields


cdef inline Py_ssize_t _target_end(bytes raw, Py_ssize_t at) noexcept:
    # At the latest at the NUL that ends a bytes object.
    cdef const unsigned char* text = <const unsigned char*> PyBytes_AS_STRING(raw)
    while b" " < text[at] < 0x7f and text[at] != b"#":
        at += 1
    return at


@cython.final
cdef class Head:
    cdef readonly str method, target
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
        fields=Fields, environ=dict, minor=int, host=str, again=bint, before=bytes, begin=Py_ssize_t, end=Py_ssize_t, connection=str,
    )
    cdef dict _parse(self, bytes raw)
    cdef _check_host(self, str host, int minor)


@cython.locals(length=str, coding=str)
cdef tuple _framing(dict environ, int minor)
