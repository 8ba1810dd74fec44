# Types for the compiled build: see docs/compiled.md.


cdef class Slots:
    cdef public object limit, quota
    cdef public Py_ssize_t taken, refused
    cdef public object waiting

    cpdef bint take(self)
    cpdef free(self)
