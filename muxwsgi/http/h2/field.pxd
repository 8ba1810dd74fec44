# Types for the compiled build: see docs/compiled.md.

import cython

cdef dict _KINDS, _NAMES
cdef int _NAMES_AT_MOST, _NAME_LENGTH


@cython.final
@cython.no_gc  # it holds strings: no circle can go through it
cdef class Field:
    cdef readonly str name, value, key
    cdef readonly int kind, size


@cython.locals(kind=int, key=str)
cdef tuple _learn(str name)
@cython.locals(known=tuple, kind=int, made=Field)
cpdef Field field(str name, str value)
cdef bint _is_bad(str value) except -1
