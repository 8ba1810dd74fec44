# The compiled half of frames.py: see docs/compiled.md.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy


cdef inline void _write_head(unsigned char* at, Py_ssize_t size, int kind, int flags, unsigned int stream) noexcept:
    at[0] = (size >> 16) & 255
    at[1] = (size >> 8) & 255
    at[2] = size & 255
    at[3] = kind
    at[4] = flags
    at[5] = (stream >> 24) & 255
    at[6] = (stream >> 16) & 255
    at[7] = (stream >> 8) & 255
    at[8] = stream & 255


cdef inline bytes _frame(int kind, int flags, unsigned int stream, bytes payload):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, size + 9)
    cdef unsigned char* at = <unsigned char*> PyBytes_AS_STRING(made)
    _write_head(at, size, kind, flags, stream)
    memcpy(at + 9, PyBytes_AS_STRING(payload), size)
    return made


cdef inline bytes _data_head(Py_ssize_t size, int flags, unsigned int stream):
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 9)
    _write_head(<unsigned char*> PyBytes_AS_STRING(made), size, 0, flags, stream)
    return made


cdef inline bytes _head_and_data(unsigned int stream, bytes block, bytes data, bint end):
    cdef Py_ssize_t block_size = PyBytes_GET_SIZE(block), size = PyBytes_GET_SIZE(data)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, block_size + size + 18)
    cdef unsigned char* at = <unsigned char*> PyBytes_AS_STRING(made)
    _write_head(at, block_size, 1, 4, stream)
    memcpy(at + 9, PyBytes_AS_STRING(block), block_size)
    at += 9 + block_size
    _write_head(at, size, 0, 1 if end else 0, stream)
    memcpy(at + 9, PyBytes_AS_STRING(data), size)
    return made


cpdef bytes frame(int kind, int flags, unsigned int stream, bytes payload)
cpdef bytes data_head(Py_ssize_t size, int flags, unsigned int stream)
cpdef bytes head_and_data(unsigned int stream, bytes block, bytes data, bint end)
