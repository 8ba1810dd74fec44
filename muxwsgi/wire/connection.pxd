# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.wire.lifeline cimport Lifeline
from muxwsgi.wire.transport cimport SocketTransport


cdef class Connection:
    cdef object __weakref__
    cdef public object _ahead, _own, _timeout, _transport
    cdef public int _files
    cdef bint _close_wanted
    cdef public long long bytes_received, bytes_sent
    cdef public object client, server, destination, identity, route, tls, trace, tunnel
    cdef public int depth
    cdef public bint _number_given
    cdef public long long id
    cdef public Connection parent
    cdef public Lifeline lifeline

    @cython.locals(plain=SocketTransport)
    cpdef recv(self, Py_ssize_t n=*, int flags=*)
    cpdef peek(self, Py_ssize_t n)
    cpdef bytes _look(self, Py_ssize_t n, timeout)
    cpdef peek_beyond(self, Py_ssize_t seen, Py_ssize_t limit)
    cpdef settle(self)
    cpdef unread(self, data)
    @cython.locals(plain=SocketTransport)
    cpdef sendall(self, data, int flags=*)
    cpdef sendall_gathered(self, bytes head, bytes data)
    cpdef shutdown(self, int how)
    cpdef close(self)
    cpdef finish(self, bint cut=*)
    cpdef Connection _lowest(self)
    cpdef _end(self, reason)
