# The compiled half of frame.py: see docs/compiled.md.

import cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy


cdef inline const unsigned char* _bytes_of(source) except NULL:
    if PyBytes_CheckExact(source):
        return <const unsigned char*> PyBytes_AS_STRING(source)
    return <const unsigned char*> PyByteArray_AS_STRING(<bytearray?> source)


cdef inline void _mask(unsigned char* to, const unsigned char* source, Py_ssize_t count, const unsigned char* key) noexcept:
    # Eight bytes a step. The compiler makes one load, one exclusive or and one store of it.
    cdef uint32_t four
    cdef uint64_t eight, word
    cdef Py_ssize_t at = 0
    memcpy(&four, key, 4)
    eight = <uint64_t> four << 32 | four
    while at + 8 <= count:
        memcpy(&word, source + at, 8)
        word ^= eight
        memcpy(to + at, &word, 8)
        at += 8
    while at < count:
        to[at] = source[at] ^ key[at & 3]
        at += 1


cdef inline bytes _masked(source, Py_ssize_t begin, Py_ssize_t count, bytes key):
    cdef const unsigned char* text = _bytes_of(source)
    cdef bytes made
    if key is None:
        return PyBytes_FromStringAndSize(<const char*> text + begin, count)
    made = PyBytes_FromStringAndSize(NULL, count)
    _mask(<unsigned char*> PyBytes_AS_STRING(made), text + begin, count, <const unsigned char*> PyBytes_AS_STRING(key))
    return made


cdef inline bytes _encoded(int first, bytes data, bytes key):
    cdef Py_ssize_t count = PyBytes_GET_SIZE(data)
    cdef int size = 2 if count < 126 else 4 if count < 65536 else 10
    cdef int whole = size if key is None else size + 4
    cdef bytes made = PyBytes_FromStringAndSize(NULL, whole + count)
    cdef unsigned char* to = <unsigned char*> PyBytes_AS_STRING(made)
    cdef Py_ssize_t left = count
    cdef int at = size - 1
    to[0] = <unsigned char> first
    to[1] = <unsigned char> ((0 if key is None else 0x80) | (count if size == 2 else 126 if size == 4 else 127))
    while at > 1:
        to[at] = <unsigned char> (left & 255)
        left >>= 8
        at -= 1
    if key is None:
        memcpy(to + size, PyBytes_AS_STRING(data), count)
    else:
        memcpy(to + size, PyBytes_AS_STRING(key), 4)
        _mask(to + whole, <const unsigned char*> PyBytes_AS_STRING(data), count, <const unsigned char*> PyBytes_AS_STRING(key))
    return made


cdef list _OPCODES
cdef object _CONTINUATION


cdef class Frame:
    cdef readonly object opcode
    cdef readonly bytes data
    cdef readonly bint fin
    cdef readonly int rsv
    cdef readonly bint from_client
    cdef readonly bytes key


cdef inline Frame _frame(opcode, bytes data, bint fin, int rsv, bint from_client, bytes key):
    cdef Frame made = Frame.__new__(Frame)
    made.opcode = opcode
    made.data = data
    made.fin = fin
    made.rsv = rsv
    made.from_client = from_client
    made.key = key
    return made


cdef class FrameParser:
    cdef bytearray _buffer
    cdef bint _compresses, _fin, _from_client, _in_message
    cdef bytes _key
    cdef long long _at_most, _left
    cdef Py_ssize_t _needed, _piece
    cdef object _opcode
    cdef int _rsv
    cdef readonly bint closed
    cdef readonly object fault

    @cython.locals(frames=list, buffer=bytearray, at=Py_ssize_t, block=bytes)
    cpdef list feed(self, data)
    @cython.locals(
        text="const unsigned char*", end=Py_ssize_t, at=Py_ssize_t, count=Py_ssize_t, first=int, second=int, length="long long", size=int,
        place=Py_ssize_t, key=bytes, number=int, data=bytes,
    )
    cdef Py_ssize_t _read(self, source, list frames) except -1
    @cython.locals(number=int)
    cdef _wrong(self, int first, int second)
    @cython.locals(data=bytes, rsv=int, key=bytes, turn=int)
    cdef Frame _next_piece(self, source, Py_ssize_t at, Py_ssize_t count)


cdef _close_fault(bytes data)
@cython.locals(data=bytes, opcode=int)
cdef bytes _encode(Frame frame, bytes key)
