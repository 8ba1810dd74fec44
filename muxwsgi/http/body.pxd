# Types for the compiled build: see docs/compiled.md.


cdef class Body:
    cdef object _settings
    cdef readonly bint direct, done
    cdef readonly object fault
    cdef readonly long long received
    cdef readonly dict trailers
    cdef readonly bint withheld

    cdef _set_up(self, settings, bint expects_continue)
    cpdef bytes read_some(self, Py_ssize_t most)
    cdef bytes _read(self, Py_ssize_t most)
    cpdef hand_over(self)
    cpdef check_hand_over(self)
    cpdef fail(self, fault)
    cpdef forgo_continue(self)
    cdef _count(self, Py_ssize_t count)
    cdef _add_trailer(self, bytes name, bytes value)
