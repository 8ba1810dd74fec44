# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.body cimport Body
from muxwsgi.http.response cimport Response


@cython.final
cdef class ExchangeCounts:
    cdef long long _requests[360]
    cdef long long _durations[19]
    cdef double _bounds[18]
    cdef double _seconds
    cdef object _status
    cdef Py_ssize_t _column
    cdef readonly long long incomplete, slow_readers, received, sent

    @cython.locals(row=Py_ssize_t)
    cdef int note(self, Response response, Body body, double seconds, bint taken) except -1
    cpdef note_refusal(self, Py_ssize_t status, double seconds)
    @cython.locals(place=Py_ssize_t)
    cdef int _note_duration(self, double seconds) except -1
    cdef _note_status(self, status)
    cdef _note_incomplete(self, Response response)


cdef bytes _COLUMN
cdef dict _PLACES
cdef Py_ssize_t _TAKEN, _NONE, _OTHER
