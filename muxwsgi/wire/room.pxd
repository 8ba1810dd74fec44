# Types for the compiled build: see docs/compiled.md.


cdef class AcceptGate:
    cpdef note(self, Py_ssize_t taken, bint full)
    cpdef Py_ssize_t allowed(self) except -1


cdef class Room:
    cdef object __weakref__
    cdef readonly Py_ssize_t taken
    cdef readonly AcceptGate gate
    cdef Py_ssize_t _limit
    cdef object _waiting

    cpdef bint is_full(self)
    cpdef wait(self, acceptor)
    cpdef take(self)
    cpdef free(self)
    cdef _call_next(self)
