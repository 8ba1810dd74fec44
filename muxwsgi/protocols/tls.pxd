# Types for the compiled build: see docs/compiled.md.

import cython


cdef class _Reader:
    cdef bytes _data
    cdef Py_ssize_t _at

    cdef bint more(self) noexcept
    @cython.locals(end=Py_ssize_t)
    cdef bytes take(self, Py_ssize_t n)
    @cython.locals(at=Py_ssize_t)
    cdef int number(self, Py_ssize_t size) except -1
    cdef bytes vector(self, Py_ssize_t size, Py_ssize_t minimum)


@cython.locals(message=bytearray, at=Py_ssize_t, length=Py_ssize_t, end=Py_ssize_t, header=bytes, fragment=bytes)
cdef _reassemble(bytes data)
@cython.locals(legacy_version=Py_ssize_t)
cdef _parse_message(_Reader hello)
@cython.locals(at=Py_ssize_t, end=Py_ssize_t, start=Py_ssize_t, kind=Py_ssize_t)
cdef dict _extensions(bytes block)
cdef tuple _numbers(bytes field, Py_ssize_t size)
@cython.locals(reader=_Reader, field=bytes)
cdef bytes _only_vector(bytes extension, Py_ssize_t length_size)
cdef tuple _listed(bytes extension, Py_ssize_t length_size, Py_ssize_t size)
@cython.locals(names=_Reader, name=bytes, kind=Py_ssize_t)
cdef _server_name(bytes extension)
@cython.locals(names=_Reader)
cdef tuple _protocols(bytes extension)
