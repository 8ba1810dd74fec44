# Types for the compiled build: see docs/performance.md, "Compiled".

from muxwsgi.wire.ready cimport Lifeline, Ready
from muxwsgi.wire.transport cimport WriteTurn


cdef class DescriptorTLS:
    cdef readonly object ssl
    cdef readonly Lifeline lifeline
    cdef Ready _reader
    cdef object _sock
    cdef WriteTurn _turn
    cdef bint _drained, _broken

    cpdef recv(self, Py_ssize_t n, timeout)
    cdef bint _read_again(self, error, timeout) except -1
    cpdef sendall(self, data, timeout)
    cdef _check(self)
