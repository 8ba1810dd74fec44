# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.wire.lifeline cimport Lifeline
from muxwsgi.wire.pace cimport WritePace
from muxwsgi.wire.ready cimport DescriptorReady
from muxwsgi.wire.syscalls cimport close_descriptor, peek, receive, receive_into, transmit, transmit_two


cdef class WriteTurn:
    cdef Lifeline _line
    cdef object _sock
    cdef public object lock
    cdef public Py_ssize_t sent

    cpdef take(self)
    cpdef yield_turn(self)
    cpdef write(self, send_more, Py_ssize_t count, timeout)
    cdef WritePace _wait(self, WritePace pace, give_up)


cdef class SocketTransport:
    cdef int _fd
    cdef object _sock
    cdef tuple _kind
    cdef DescriptorReady _reader
    cdef WriteTurn _turn
    cdef int _reads
    cdef Py_ssize_t _sent
    cdef bint _drained, _lowat
    cdef public bint can_peek
    cdef readonly Lifeline lifeline

    cpdef recv(self, Py_ssize_t n, timeout)
    @cython.locals(count=Py_ssize_t)
    cpdef recv_into(self, view, timeout)
    cdef _note_full_read(self)
    cpdef peek_beyond(self, Py_ssize_t seen, Py_ssize_t limit, timeout)
    cpdef settle(self)
    cdef WriteTurn _writing(self)
    cpdef sendall(self, data, timeout)
    cpdef sendall_gathered(self, bytes head, bytes data, timeout)


cdef class ClosedTransport:
    cdef readonly Lifeline lifeline
    cdef readonly object reason
