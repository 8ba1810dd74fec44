# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.h2.huffman cimport encode as encode_huffman

cdef dict _STATIC_PAIRS, _STATIC_NAMES
cdef frozenset _SENSITIVE, _NOT_INSERTED
cdef int INSERTED_AT_MOST, SEEN_AT_MOST


@cython.final
cdef class Encoder:
    cdef dict _by_pair, _seen
    cdef object _order
    cdef list _pending
    cdef frozenset _names
    cdef long long _inserted
    cdef Py_ssize_t _size, _limit
    cdef readonly long long changes
    cdef readonly bint differs

    cpdef resize(self, Py_ssize_t limit)
    @cython.locals(
        parts=list, pair=tuple, known=object, number="long long", name=bytes, value=bytes, size=Py_ssize_t, first=int, mask=int, index=int,
    )
    cpdef bytes encode(self, list pairs)
    cdef bint _was_seen(self, tuple pair) except -1
    cdef _insert(self, tuple pair, Py_ssize_t size)
    cdef _make_room(self, Py_ssize_t size)


cdef bytes _integer(int first, int mask, long long value)
@cython.locals(code=bytes)
cdef bytes _string(bytes text)
