# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.h2.field cimport Field, field
from muxwsgi.http.h2.huffman cimport decode as decode_huffman

cdef int _RING, _STATIC_COUNT, REMEMBERED_AT_MOST, TABLE_SIZE


@cython.final
cdef class Decoder:
    cdef list _ring, _fields
    cdef bytes _block
    cdef Py_ssize_t _at
    cdef long long _inserted, _changes, _block_changes
    cdef int _count, _size, _limit
    cdef Py_ssize_t _most, _far_too_much
    cdef readonly bint remembers, too_large

    @cython.locals(
        data="const unsigned char*", end=Py_ssize_t, at=Py_ssize_t, total=Py_ssize_t, begun=bint, before="long long", fields=list,
        octet="unsigned int", index="unsigned int", mask="unsigned int", entry=Field, known=Field, name=str, value=str,
    )
    cpdef list decode(self, bytes block)
    @cython.locals(back="unsigned int", found=Field)
    cdef Field _entry(self, unsigned int index)
    cdef _insert(self, Field entry)
    @cython.locals(place="unsigned int", oldest=Field)
    cdef _make_room(self, int size)
    @cython.locals(shift=int, octet="unsigned int")
    cdef unsigned int _integer(self, const unsigned char* data, Py_ssize_t at, Py_ssize_t end, unsigned int value) except? 0xffffffff
    @cython.locals(octet="unsigned int", length=Py_ssize_t)
    cdef str _string(self, bytes block, Py_ssize_t at, Py_ssize_t end)
