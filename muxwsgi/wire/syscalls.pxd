# The compiled half of syscalls.py: see docs/compiled.md.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_FromString
from libc cimport errno as c_errno

cdef extern from "sys/socket.h" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        unsigned short sa_family
    cdef struct sockaddr_storage:
        unsigned short ss_family
    int AF_INET, AF_INET6, MSG_PEEK
    ssize_t recv(int fd, void* buffer, size_t size, int flags)
    ssize_t send(int fd, const void* buffer, size_t size, int flags)

cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec* parts, int count)

cdef extern from *:
    """
    /* Declared here because the header has it only where _GNU_SOURCE is defined before any other, and Python may have come first. */
    #include <sys/socket.h>
    extern int accept4(int, struct sockaddr *, socklen_t *, int);
    """
    int c_accept4 "accept4"(int fd, sockaddr* address, socklen_t* size, int flags) nogil
    int SOCK_NONBLOCK, SOCK_CLOEXEC

cdef extern from "netinet/in.h" nogil:
    cdef struct in_addr:
        pass
    cdef struct in6_addr:
        pass
    cdef struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        unsigned short sin6_port
        unsigned int sin6_flowinfo
        in6_addr sin6_addr
        unsigned int sin6_scope_id
    unsigned short ntohs(unsigned short value)
    unsigned int ntohl(unsigned int value)

cdef extern from "arpa/inet.h" nogil:
    const char* inet_ntop(int family, const void* address, char* text, socklen_t size)

cdef extern from "fcntl.h" nogil:
    int F_GETFD
    int fcntl(int fd, int command)

cdef extern from "unistd.h" nogil:
    int c_close "close"(int fd)

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
    ADDRESS_LENGTH = 64


cdef inline object _nothing_received():
    # None if there is nothing yet.
    if c_errno.errno != c_errno.EAGAIN:
        PyErr_SetFromErrno(OSError)
    return None


cdef inline bytes _recv_with(int fd, Py_ssize_t n, int flags):
    # With the GIL, and into the stack: nothing here waits.
    cdef char small[SMALL]
    cdef ssize_t count
    cdef bytes data
    if n < 0:
        raise ValueError("negative buffersize")
    if n <= SMALL:
        count = recv(fd, small, n, flags)
        if count < 0:
            return _nothing_received()
        return PyBytes_FromStringAndSize(small, count)
    data = PyBytes_FromStringAndSize(NULL, n)
    count = recv(fd, PyBytes_AS_STRING(data), n, flags)
    if count < 0:
        return _nothing_received()
    return data if count == n else data[:count]


cdef inline bytes _recv(int fd, Py_ssize_t n):
    return _recv_with(fd, n, 0)


cdef inline bytes _peek(int fd, Py_ssize_t n, object socket):
    return _recv_with(fd, n, MSG_PEEK)


cdef inline Py_ssize_t _send(int fd, object data) except -1:
    cdef ssize_t count
    cdef const unsigned char[::1] view
    if PyBytes_CheckExact(data):
        count = send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), 0)
    elif not len(data):
        return 0
    else:
        view = data
        count = send(fd, &view[0], view.shape[0], 0)
    if count < 0:
        PyErr_SetFromErrno(OSError)
    return count


cdef inline Py_ssize_t _recv_into(int fd, object buffer) except -2:
    cdef unsigned char[::1] view = buffer
    cdef ssize_t count = recv(fd, &view[0], view.shape[0], 0)
    if count < 0:
        _nothing_received()
    return count


cdef inline Py_ssize_t _send_two(int fd, bytes head, bytes data) except -1:
    cdef iovec parts[2]
    cdef ssize_t count
    parts[0].iov_base = PyBytes_AS_STRING(head)
    parts[0].iov_len = PyBytes_GET_SIZE(head)
    parts[1].iov_base = PyBytes_AS_STRING(data)
    parts[1].iov_len = PyBytes_GET_SIZE(data)
    count = writev(fd, parts, 2)
    if count < 0:
        PyErr_SetFromErrno(OSError)
    return count


cdef inline object _dotted(const unsigned char* address):
    # What inet_ntop writes, in a tenth of the time.
    cdef char text[16]
    cdef int at = 0, part
    cdef unsigned int value
    for part in range(4):
        value = address[part]
        if value >= 100:
            text[at] = <char>(48 + value // 100)
            at += 1
        if value >= 10:
            text[at] = <char>(48 + value // 10 % 10)
            at += 1
        text[at] = <char>(48 + value % 10)
        text[at + 1] = 46  # "."
        at += 2
    return PyUnicode_DecodeASCII(text, at - 1, NULL)


cdef inline object _accept(object listening, int family):
    cdef sockaddr_storage storage
    cdef socklen_t size = sizeof(storage)
    cdef char text[ADDRESS_LENGTH]
    cdef int fd
    cdef sockaddr_in* four
    cdef sockaddr_in6* six
    if family != AF_INET and family != AF_INET6:
        return accept_by_python(listening)
    fd = c_accept4(listening.fileno(), <sockaddr*> &storage, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        if c_errno.errno == c_errno.EAGAIN:
            return None
        PyErr_SetFromErrno(OSError)
    if family == AF_INET:
        four = <sockaddr_in*> &storage
        return fd, (_dotted(<const unsigned char*> &four.sin_addr), ntohs(four.sin_port))
    six = <sockaddr_in6*> &storage
    inet_ntop(AF_INET6, &six.sin6_addr, text, ADDRESS_LENGTH)
    return fd, (PyUnicode_FromString(text), ntohs(six.sin6_port), ntohl(six.sin6_flowinfo), six.sin6_scope_id)


cdef inline int _close(int fd) except -1:
    if c_close(fd) < 0 and c_errno.errno != c_errno.ECONNRESET and c_errno.errno != c_errno.EINTR:
        PyErr_SetFromErrno(OSError)
    return 0


cdef inline int _check_descriptor(int fd) except -1:
    if fcntl(fd, F_GETFD) < 0:
        PyErr_SetFromErrno(OSError)
    return 0


cdef inline double _clock() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef inline long long _second() noexcept:
    return c_time(NULL)


cpdef bytes receive(int fd, Py_ssize_t n)
cpdef bytes peek(int fd, Py_ssize_t n, socket)
cpdef Py_ssize_t receive_into(int fd, view) except -2
cpdef Py_ssize_t transmit(int fd, data) except -1
cpdef Py_ssize_t transmit_two(int fd, bytes head, bytes data) except -1
cpdef accept_one(listening, int family)
cpdef accept_by_python(listening)
cpdef close_descriptor(int fd)
cpdef check_descriptor(int fd)
cpdef double clock() except? -1
cpdef long long second() except? -1
