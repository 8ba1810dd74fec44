# The compiled half of syscalls.py: see docs/performance.md, "Compiled".

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void* buffer, size_t size, int flags)
    ssize_t send(int fd, const void* buffer, size_t size, int flags)

cdef extern from "time.h" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec* now)
    time_t c_time "time"(time_t* now)

# Most of what is read is a request head. More than this goes straight into a bytes object, without a copy.
cdef enum:
    SMALL = 4096


cdef inline bytes _recv(object sock, Py_ssize_t n):
    # With the GIL, and into the stack: nothing here waits. The descriptor is asked for each time: a closed socket says -1, where a number
    # kept from before may be somebody else's by now.
    cdef char small[SMALL]
    cdef ssize_t count
    if n > SMALL:
        return sock.recv(n)
    count = recv(sock.fileno(), small, n, 0)
    if count < 0:
        PyErr_SetFromErrno(OSError)
    return PyBytes_FromStringAndSize(small, count)


cdef inline Py_ssize_t _send(object sock, object data) except -1:
    cdef ssize_t count
    if not PyBytes_CheckExact(data):
        return sock.send(data)
    count = send(sock.fileno(), PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), 0)
    if count < 0:
        PyErr_SetFromErrno(OSError)
    return count


cdef inline double _clock() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef inline long long _second() noexcept:
    return c_time(NULL)


cpdef bytes receive(sock, Py_ssize_t n)
cpdef Py_ssize_t transmit(sock, data) except -1
cpdef double clock() except? -1
cpdef long long second() except? -1
