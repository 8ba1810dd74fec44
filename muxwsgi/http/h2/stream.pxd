# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.h2.body cimport StreamBody

cdef double _NEVER


@cython.final
cdef class Stream:
    cdef readonly unsigned int id
    cdef public dict environ
    cdef public str method, protocol, target
    cdef public StreamBody body
    cdef public bint ended, finished, held_back, patient, sequential
    cdef public long long code, window, sent, moved, others, turn
    cdef public object refusal, gone, writer, pace
    cdef public int urgency
    cdef public double give_up, waits_since

    cdef begin(self, unsigned int number, long long window)
    cpdef wake(self)
