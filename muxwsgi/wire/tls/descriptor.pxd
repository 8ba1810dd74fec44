# Types for the compiled build, and its half of descriptor.py: see docs/compiled.md.

import cython

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uintptr_t

from muxwsgi.wire.lifeline cimport Lifeline
from muxwsgi.wire.ready cimport Ready
from muxwsgi.wire.transport cimport WriteTurn

cdef extern from "errno.h" nogil:
    int c_errno "errno"

ctypedef int (*SSL_io)(void* ssl, const void* buffer, int count) noexcept
ctypedef int (*SSL_shake)(void* ssl) noexcept
ctypedef int (*SSL_error)(void* ssl, int count) noexcept

# Where the functions are that pyOpenSSL calls; 0 where that is unknown.
cdef uintptr_t SSL_READ, SSL_WRITE, SSL_DO_HANDSHAKE, SSL_GET_ERROR

cdef enum:
    LARGEST = 16384  # RECORD
    IN_ONE_GO = 131072  # eight records
    WANT_READ = 2
    WANT_WRITE = 3


cdef inline bint _is_compiled() noexcept:
    return True


cdef inline object _receive(uintptr_t ssl, Py_ssize_t n):
    # Bytes; None for WANT_READ; what SSL_read gave back and errno for every other failure. With the GIL, and into the stack: the
    # descriptor is not blocking, and decrypting a record takes microseconds.
    cdef char record[LARGEST]
    cdef int count, code
    count = (<SSL_io>SSL_READ)(<void*>ssl, record, <int>(n if n < LARGEST else LARGEST))
    if count > 0:
        return PyBytes_FromStringAndSize(record, count)
    code = c_errno
    if (<SSL_error>SSL_GET_ERROR)(<void*>ssl, count) == WANT_READ:
        return None
    return count, code


cdef inline object _receive_into(uintptr_t ssl, object data):
    # As `_receive`, into `data`: how much.
    cdef unsigned char[::1] view = data
    cdef int count = (<SSL_io>SSL_READ)(<void*>ssl, &view[0], <int>(view.shape[0] if view.shape[0] < LARGEST else LARGEST))
    cdef int code = c_errno
    if count > 0:
        return count
    if (<SSL_error>SSL_GET_ERROR)(<void*>ssl, count) == WANT_READ:
        return None
    return count, code


cdef inline object _transmit(uintptr_t ssl, bytes data):
    # How much, or what SSL_write gave back and errno.
    cdef int count = (<SSL_io>SSL_WRITE)(<void*>ssl, PyBytes_AS_STRING(data), <int>PyBytes_GET_SIZE(data))
    cdef int code = c_errno
    if count > 0:
        return count
    return count, code


cdef inline object _transmit_more(uintptr_t ssl, object data, Py_ssize_t begin):
    # As `_transmit`, from `begin` on, record after record: as much as there is room for, and no more than IN_ONE_GO.
    cdef const unsigned char[::1] view = data
    cdef Py_ssize_t at = begin, end = view.shape[0]
    cdef int count, code
    if end - begin > IN_ONE_GO:
        end = begin + IN_ONE_GO
    while at < end:
        count = (<SSL_io>SSL_WRITE)(<void*>ssl, &view[at], <int>(end - at))
        code = c_errno
        if count <= 0:
            if at > begin and (<SSL_error>SSL_GET_ERROR)(<void*>ssl, count) == WANT_WRITE:
                break  # the next call has to begin there, with the record that is made already
            return count, code
        at += count
    return at - begin


cdef inline object _shake(uintptr_t ssl):
    # True when the handshake is done; None for WANT_READ; what SSL_do_handshake gave back and errno for every other failure. With the GIL:
    # pyOpenSSL's callbacks, which OpenSSL calls in it, take it again. What one of them raised is looked for only where the handshake fails:
    # no context may have a verify callback that raises and lets it pass.
    cdef int result = (<SSL_shake>SSL_DO_HANDSHAKE)(<void*>ssl)
    cdef int code = c_errno
    if result == 1:
        return True
    if (<SSL_error>SSL_GET_ERROR)(<void*>ssl, result) == WANT_READ:
        return None
    return result, code


cdef class DescriptorTLS:
    cdef readonly object ssl
    cdef readonly Lifeline lifeline
    cdef uintptr_t _address
    cdef Ready _reader
    cdef object _sock
    cdef WriteTurn _turn
    cdef bint _drained, _broken
    cdef readonly bint truncated

    cpdef recv(self, Py_ssize_t n, timeout)
    cpdef recv_into(self, view, timeout)
    @cython.locals(size=Py_ssize_t)
    cdef _read(self, Py_ssize_t n, view, timeout)
    cdef bint _read_again(self, error, timeout) except -1
    cpdef sendall(self, data, timeout)
    cdef _check(self)
