# Types for the compiled build: see docs/compiled.md.

import cython


cdef dict _LOWER


cdef class RequestPlan:
    cdef public object method, target, host, fields, chunked, length, upgrade, in_tunnel, keep_hop, extra


cdef _lower(name)
@cython.locals(sent=list, lines=list, text=str, wants_trailers=bint, framed=bint, hosted=bint)
cpdef tuple request_head(RequestPlan plan)
cdef set _options(value)
cdef list _framing(RequestPlan plan, name)
