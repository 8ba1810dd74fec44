# Types for the compiled build: see docs/compiled.md.

import cython


cdef class ResponseHead:
    cdef public object status, reason, minor, fields, length, chunked, keep_alive, version


@cython.locals(fields=list, special=list, block=str, text=str, field=tuple)
cpdef parse_response_head(bytes raw, Py_ssize_t limit_fields)
cdef bytes _repaired(bytes raw, error)
cdef tuple _framing(list special, minor)
