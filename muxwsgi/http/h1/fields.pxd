# Types for the compiled build: see docs/compiled.md.

import cython

from cpython.bytes cimport PyBytes_AS_STRING


cdef inline Py_ssize_t _name_end(bytes raw, Py_ssize_t at) noexcept:
    # At the latest at the NUL that ends a bytes object.
    cdef const unsigned char* text = <const unsigned char*> PyBytes_AS_STRING(raw)
    while text[at] > b" " and text[at] != b":":
        at += 1
    return at


cdef inline Py_ssize_t _value_end(bytes raw, Py_ssize_t at) noexcept:
    cdef const unsigned char* text = <const unsigned char*> PyBytes_AS_STRING(raw)
    while (text[at] >= b" " and text[at] != 0x7f) or text[at] == b"\t":
        at += 1
    return at


cdef class Fields:
    cdef readonly object doubt
    cdef dict _shared, _template
    cdef list _lines, _names, _line_keys
    cdef bint _read_before
    cdef Py_ssize_t _at_most, _size_at_most

    @cython.locals(size=Py_ssize_t, environ=dict)
    cdef dict read(self, bytes raw, Py_ssize_t at, int minor)
    @cython.locals(
        text="const unsigned char*", lines=list, number=Py_ssize_t, line=bytes, name=bytes, begin=Py_ssize_t, value_at=Py_ssize_t,
        end=Py_ssize_t, key=str, value=str,
    )
    cdef bint _read_again(self, bytes raw, Py_ssize_t at) except -1
    @cython.locals(
        keys=dict, text="const unsigned char*", remember=bint, count=Py_ssize_t, colon=Py_ssize_t, name=bytes, key=str, end=Py_ssize_t,
    )
    cdef bint _read_known(self, bytes raw, Py_ssize_t at, dict environ) except -1
    cdef _forget(self)
    @cython.locals(environ=dict, sink=_Sink)
    cdef dict _parse(self, bytes raw, Py_ssize_t at, int minor)


cdef class _Sink:
    cdef dict _environ
    cdef bytes repeated

    @cython.locals(keys=dict, environ=dict, key=str, text=str)
    cpdef on_header(self, bytes name, bytes value)


@cython.locals(text="const unsigned char*")
cdef str _value(bytes raw, Py_ssize_t at, Py_ssize_t end)
cpdef bint is_length(str text) except -1
cdef _feed(parser, bytes raw)
cdef unsigned char _COLON, _CR, _LF, _SPACE, _TAB
