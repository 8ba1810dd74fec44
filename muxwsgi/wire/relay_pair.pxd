# Types for the compiled build: see docs/compiled.md.

from muxwsgi.wire.lifeline cimport Lifeline


cdef class Way:
    cdef public Pair pair
    cdef public Way other
    cdef public bytes held
    cdef public object throttles
    cdef public Py_ssize_t offset
    cdef public long long moved
    cdef public int source, target, pipe_in, pipe_out, piped, full
    cdef public bint readable, writable, ended, done, queued, waits, whole


cdef class Pair:
    cdef object _engine
    cdef public Way left, right
    cdef public Lifeline line, far_line
    cdef public object waiter, owner, error
    cdef public double idle_timeout, fin_timeout, give_up, active_at
    cdef public long long noted_left, noted_right
    cdef public int under_way
    cdef public bint ended

    cpdef release(self)
