# Types for the compiled build: see docs/compiled.md.

import cython

from muxwsgi.events cimport Events
# By another name: `Connection` is looked up in the module when it is called.
from muxwsgi.wire.connection cimport Connection as ServedConnection
from muxwsgi.wire.lifeline cimport Lifeline


cdef class Serving:
    cdef readonly Py_ssize_t peer_errors
    cdef dict _lines
    cdef Events _events

    @cython.locals(line=Lifeline, cut=bint, given=bint)
    cpdef serve(self, handler, ServedConnection connection, bint taken_over=*)
    cdef _note_peer_error(self, ServedConnection connection, error)
