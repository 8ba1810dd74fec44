# Types for the compiled build: see docs/compiled.md.

import cython
from libc.stdint cimport uint64_t

cdef uint64_t _ONE
cdef int _EOS, _LONGEST, _SHORT
cdef bytes _LENGTHS
cdef bytearray _SHORT_SYMBOLS, _SHORT_LENGTHS
cdef list _FIRST, _COUNT, _PLACE, _SORTED, _CODES


@cython.locals(
    text="const unsigned char*", symbols="unsigned char*", lengths="unsigned char*", out=bytearray, written="unsigned char*", count=Py_ssize_t, bits=uint64_t, have=int,
    window=Py_ssize_t, size=int, symbol=int,
)
cpdef str decode(bytes data, Py_ssize_t at, Py_ssize_t end)
@cython.locals(size=int)
cdef int _long(uint64_t bits, int have) except -1
@cython.locals(lengths="const unsigned char*", bits=uint64_t, have=int, size=int, octet="unsigned char", out=bytearray)
cpdef bytes encode(bytes text)
