# Types for the compiled build: see docs/compiled.md.

from muxwsgi.wire.ready cimport Lifeline


cdef class Connection:
    cdef object __weakref__
    cdef object _ahead, _timeout
    cdef public object _own, _transport
    cdef int _files
    cdef bint _close_wanted
    cdef public long long bytes_received, bytes_sent
    cdef public object client, server, destination, identity, route, tls, trace, tunnel
    cdef public int depth
    cdef bint _number_given
    cdef public long long id
    cdef public Connection parent
    cdef public Lifeline lifeline

    cpdef recv(self, Py_ssize_t n=*, int flags=*)
    cpdef peek(self, Py_ssize_t n)
    cdef bytes _look(self, Py_ssize_t n, timeout)
    cpdef peek_beyond(self, Py_ssize_t seen, Py_ssize_t limit)
    cpdef settle(self)
    cpdef unread(self, data)
    cpdef sendall(self, data, int flags=*)
    cpdef shutdown(self, int how)
    cpdef close(self)
    cpdef finish(self, bint cut=*)
    cdef Connection _lowest(self)
    cpdef _end(self, reason)
