# Types for the compiled build: see docs/compiled.md.


cdef class Gate:
    cdef object __weakref__
    cdef object _page, _awaited
    cdef object _line
    cdef bint _forsaken, _open, _full
    cdef Py_ssize_t _index, _taken, _pauses
    cdef object _version
    cdef dict _others, _idle

    cpdef note(self, Py_ssize_t taken, bint full)
    cpdef Py_ssize_t allowed(self) except -1
    cdef _tell(self)
