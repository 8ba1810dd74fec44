# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.client.head_wait cimport HeadWait
from muxwsgi.http.h1.incoming cimport Incoming


cdef class ClientConnection:
    cdef public object address, body, closing
    cdef readonly object connection, fresh, answered
    cdef Incoming _incoming
    cdef object _settings, _no_body, _poll
    cdef bint _keep_alive, _sending, _awaited, _accept_invalid
    cdef HeadWait _wait

    @cython.locals(wait=HeadWait)
    cpdef receive(self, method, on_interim=*)
    cdef bytes _first_bytes(self)
    @cython.locals(limit=Py_ssize_t, end=Py_ssize_t, searched=Py_ssize_t, buffer=bytes, incoming=Incoming)
    cdef bytes _read_head(self)
    cdef bytes _read_invalid_head(self)
    cdef _body_of(self, head, method)
