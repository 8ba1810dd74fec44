# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.http.body cimport Body
from muxwsgi.http.rendered cimport Rendered


cdef class Response:
    cdef Body _body
    cdef bytes _block
    cdef dict _rendered
    cdef object _length, _total, _left
    cdef bint _bodiless, _cut, _dated, _served, _silent
    cdef public bint complete, head_sent, keep_alive
    cdef readonly long long body_bytes
    cdef readonly object method
    cdef public object headers, peer_error, status, trailers

    cdef _set_up(self, Body body, method, bint keep_alive, dict rendered)
    cpdef forget(self)
    cpdef send(self, result)
    cpdef refuse(self, error)
    cpdef give_up(self)
    @cython.locals(code=int, rendered=Rendered)
    cdef _begin(self, status, headers)
    @cython.locals(kinds=dict, fields=list, dated=bint, served=bint, pure=bint, block=bytes)
    cdef _render(self, status, headers, int code)
    cdef bint _take_length(self, value) except -1
    cdef object _open(self, total)
    cdef _send_known(self, chunks)
    cdef bint _send_file(self, wrapper) except -1
    cdef bytes _owed(self, bytes data)
    cdef _finish(self)
    cdef _check_owed(self)
    cdef list _trailer_fields(self)

    cdef bytes _spell(self, str status, list fields)
    cdef _put_head(self, total, bytes data)
    cdef _put(self, bytes data)
    cdef _put_end(self)
    cdef _put_interim(self, int code, reason, list fields)
    cdef Py_ssize_t _put_refusal(self, error) except -1
    cdef _break_off(self)
    cdef bint _sends_files(self) except -1
    cdef _put_file(self, file, offset, count)
