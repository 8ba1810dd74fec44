# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.h2.field cimport Field
from muxwsgi.http.h2.sent_fields cimport sent_fields

cdef int METHOD, SCHEME, AUTHORITY, PATH, PROTOCOL, UNKNOWN_PSEUDO, REGULAR, DROPPED, TE, COOKIE, LENGTH
cdef int CONTENT_TYPE, HOST, EXPECT, PRIORITY
cdef int URGENCY, _LENGTH_DIGITS
cdef str _VERSION


@cython.final
cdef class Requests:
    cdef object _settings
    cdef dict _shared, _template
    cdef list _fields
    cdef str _good_host
    cdef Py_ssize_t _line_at_most, _fields_at_most, _field_at_most
    cdef long long _body_at_most
    cdef readonly dict environ
    cdef readonly str method, protocol, target
    cdef readonly long long length
    cdef readonly bint expects_continue, sequential
    cdef readonly int urgency

    @cython.locals(
        environ=dict, method=str, scheme=str, authority=str, path=str, host=str, priority=str, protocol=str, regular=bint, kind=int, value=str, key=str,
        each=Field, target=str, query=str, largest=int,
    )
    cpdef dict read(self, list fields, bint too_large, bint again)


cdef _upgrade(dict environ, str protocol)
@cython.locals(each=Field)
cpdef check_trailers(list fields)
