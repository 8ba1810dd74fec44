# Types for the compiled build: see docs/compiled.md.


cdef class Pace:
    cdef double _grace, _rate
    cdef public double patience

    cpdef moved(self, count, double waited)


cdef class WritePace(Pace):
    cdef object _queue
    cdef long long _size
    cdef double _at

    cpdef begin(self, double now)
    cpdef look(self, double now)
