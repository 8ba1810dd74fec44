# Types for the compiled build: see docs/compiled.md.

from muxwsgi.wire.room cimport AcceptGate


cdef class Gate(AcceptGate):
    cdef object __weakref__
    cdef object _page, _awaited
    cdef unsigned long long[::1] _head, _line
    cdef unsigned long long _version
    cdef bint _forsaken, _open, _full
    cdef Py_ssize_t _index, _taken, _pauses
    cdef dict _others, _idle

    cpdef note(self, Py_ssize_t taken, bint full)
    cpdef Py_ssize_t allowed(self) except -1
    cdef _tell(self)


cdef Py_ssize_t _CONNECTIONS, _ACCEPTS, _ACCEPTED
