# The compiled half of frame.py: see docs/compiled.md.

import cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    object PyMemoryView_FromMemory(char* memory, Py_ssize_t size, int flags)
    int PyBUF_WRITE


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


# A long payload is read into the bytes object that the application gets. Nobody else has it until it is complete.


cdef inline bytes _blank(Py_ssize_t size):
    return PyBytes_FromStringAndSize(NULL, size)


cdef inline object _room(bytes memory, Py_ssize_t place, Py_ssize_t count):
    return PyMemoryView_FromMemory(PyBytes_AS_STRING(memory) + place, count, PyBUF_WRITE)


cdef inline int _put(bytes memory, Py_ssize_t place, const unsigned char* source, Py_ssize_t count, bytes key) except -1:
    cdef unsigned char* to = <unsigned char*> PyBytes_AS_STRING(memory) + place
    cdef const unsigned char* given
    cdef unsigned char turned[4]
    cdef int at
    if key is None:
        if to != source:
            memcpy(to, source, count)
        return 0
    given = <const unsigned char*> PyBytes_AS_STRING(key)
    for at in range(4):
        turned[at] = given[(place + at) & 3]
    _mask(to, source, count, turned)
    return 0


cdef inline int _fill(bytes memory, Py_ssize_t place, source, Py_ssize_t begin, Py_ssize_t count, bytes key) except -1:
    return _put(memory, place, _bytes_of(source) + begin, count, key)


cdef inline int _unmask(bytes memory, Py_ssize_t place, Py_ssize_t count, bytes key) except -1:
    return _put(memory, place, <const unsigned char*> PyBytes_AS_STRING(memory) + place, count, key)


cdef inline bytes _whole(bytes memory):
    return memory


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
    cdef bytes _key, _memory
    cdef long long _at_most, _left
    cdef Py_ssize_t _filled, _missing, _needed, _piece
    cdef object _opcode
    cdef int _first, _rsv
    cdef readonly bint closed
    cdef readonly object fault

    @cython.locals(frames=list, buffer=bytearray, at=Py_ssize_t, block=bytes)
    cpdef list feed(self, data, long long begin=*, long long end=*)
    cpdef room(self)
    @cython.locals(frames=list)
    cpdef list filled(self, Py_ssize_t count)
    @cython.locals(first=int, data=bytes)
    cdef _note_filled(self, Py_ssize_t count, list frames)
    @cython.locals(
        text="const unsigned char*", at=Py_ssize_t, count=Py_ssize_t, first=int, second=int, length="long long", size=int,
        place=Py_ssize_t, key=bytes, number=int, data=bytes,
    )
    cdef Py_ssize_t _read(self, source, Py_ssize_t begin, Py_ssize_t end, list frames) except -1
    @cython.locals(number=int)
    cdef _wrong(self, int first, int second)
    @cython.locals(data=bytes, rsv=int, key=bytes, turn=int)
    cdef Frame _next_piece(self, source, Py_ssize_t at, Py_ssize_t count)


cpdef bytes encode_message(int opcode, bytes data, int rsv)
@cython.locals(first=int)
cpdef bytes message_head(int opcode, Py_ssize_t length, int rsv)
cdef _close_fault(bytes data)
@cython.locals(data=bytes, opcode=int)
cdef bytes _encode(Frame frame, bytes key)
