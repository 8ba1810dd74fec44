# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.h2.body cimport StreamBody
from muxwsgi.http.h2.sender cimport Sender

cdef long long WINDOW_AT_MOST, WINDOW_WITHOUT_SETTINGS, WINDOW_GROWS_TO
cdef int WINDOW_UPDATE


@cython.final
cdef class Windows:
    cdef Sender _sender
    cdef long long _stream_window, _growth, _whole, _left, _owed
    cdef readonly long long initial, window

    cpdef came(self, long long count)
    cpdef give_back(self, long long count)
    cpdef acknowledged(self)
    @cython.locals(room="long long", more="long long")
    cpdef taken(self, StreamBody body)
    cpdef ended(self, StreamBody body)
