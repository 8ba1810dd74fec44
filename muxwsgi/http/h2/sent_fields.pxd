# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.h2.field cimport Field
from muxwsgi.http.sent_fields cimport SentFields

cdef int UNKNOWN_PSEUDO


@cython.no_gc
cdef class FieldList(SentFields):
    cdef list _fields
    cdef str _authority

    cdef _take(self, list fields, str authority)
    @cython.locals(pairs=list, each=Field)
    cdef list _parse(self)


@cython.locals(sent=FieldList)
cpdef FieldList sent_fields(list fields, str authority)
