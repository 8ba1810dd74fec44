# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.body cimport Body
from muxwsgi.wire.connection cimport Connection
from muxwsgi.wire.syscalls cimport second


cdef class Terms:
    cdef readonly bytes server, date, date_and_server
    cdef public bint closing
    cdef long long _second

    @cython.locals(now="long long")
    cpdef refresh(self)


cdef class _Rendered:
    cdef list headers
    cdef bytes block
    cdef object length
    cdef tuple stated

    @cython.locals(at=Py_ssize_t, known=tuple)
    cdef bint is_for(self, list headers) except -1


cdef dict _RENDERED, _STATUSES, _KINDS


cdef class Response:
    cdef Connection _connection
    cdef Terms _terms
    cdef Body _body
    cdef bytes _block
    cdef tuple _stated
    cdef object _length, _total, _left
    cdef int _minor
    cdef bint _bodiless, _chunked, _cut, _silent
    cdef public bint complete, head_sent, keep_alive
    cdef readonly long long body_bytes
    cdef readonly object method
    cdef public object headers, peer_error, status, trailers

    cpdef forget(self)
    @cython.locals(known=tuple, code=int, rendered=_Rendered)
    cdef _begin(self, status, headers)
    @cython.locals(kinds=dict, lines=list, date=bint, server=bint, pure=bint, block=str)
    cdef _render(self, status, headers, int code, str line)
    cpdef send(self, result)
    cpdef give_up(self)
    cdef _send_known(self, chunks)
    cdef bint _send_file(self, wrapper) except -1
    cdef _finish(self)
    cdef _check_owed(self)
    cdef bytes _head(self, total)
    cdef bint _take_length(self, value) except -1
    @cython.locals(count=Py_ssize_t, in_front=Py_ssize_t, first=Py_ssize_t)
    cdef _put(self, bytes head, data)
    @cython.locals(connection=Connection, before="long long")
    cdef _send(self, data, Py_ssize_t in_front, Py_ssize_t count)
