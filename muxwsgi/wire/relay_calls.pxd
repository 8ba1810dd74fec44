# The compiled half of relay_calls.py: see docs/compiled.md.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <sys/types.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #define RELAY_BLOCK 16384
    #define RELAY_EVENTS 256
    static char relay_buffer[RELAY_BLOCK];
    static struct epoll_event relay_events[RELAY_EVENTS];

    static int relay_take(int fd, int n) {
        ssize_t done;
        if (n > RELAY_BLOCK) n = RELAY_BLOCK;
        do done = recv(fd, relay_buffer, n, 0); while (done < 0 && errno == EINTR);
        return done < 0 ? -errno : (int) done;
    }
    static int relay_send(int fd, const char *data, size_t n) {
        ssize_t done;
        do done = send(fd, data, n, MSG_NOSIGNAL); while (done < 0 && errno == EINTR);
        return done < 0 ? -errno : (int) done;
    }
    static int relay_move(int source, int target, int n) {
        ssize_t done;
        do done = syscall(SYS_splice, source, NULL, target, NULL, (size_t) n, 3 /* SPLICE_F_MOVE | SPLICE_F_NONBLOCK */); while (done < 0 && errno == EINTR);
        return done < 0 ? -errno : (int) done;
    }
    static int relay_watch(int epoll, int fd) {
        struct epoll_event event;
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET;
        event.data.fd = fd;
        return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
    }
    static int relay_unwatch(int epoll, int fd) {
        struct epoll_event event;
        return epoll_ctl(epoll, EPOLL_CTL_DEL, fd, &event) < 0 ? -errno : 0;
    }
    static int relay_poll(int epoll) {
        int count;
        do count = epoll_wait(epoll, relay_events, RELAY_EVENTS, 0); while (count < 0 && errno == EINTR);
        return count < 0 ? -errno : count;
    }
    static int relay_end_writing(int fd) { return shutdown(fd, SHUT_WR) < 0 ? -errno : 0; }
    static int relay_socket_error(int fd) {
        int error = 0;
        socklen_t size = sizeof error;
        return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? errno : error;
    }
    """
    char* relay_buffer
    int relay_take(int fd, int n) noexcept
    int relay_send(int fd, const char* data, size_t n) noexcept
    int relay_move(int source, int target, int n) noexcept
    int relay_watch(int epoll, int fd) noexcept
    int relay_unwatch(int epoll, int fd) noexcept
    int relay_poll(int epoll) noexcept
    int relay_end_writing(int fd) noexcept
    int relay_socket_error(int fd) noexcept
    int relay_event_fd "relay_events_fd"(int at) noexcept
    int relay_event_mask "relay_events_mask"(int at) noexcept

cdef extern from *:
    """
    #define relay_events_fd(at) (relay_events[at].data.fd)
    #define relay_events_mask(at) ((int) relay_events[at].events)
    """


cdef inline int _take(int fd, int n) noexcept:
    return relay_take(fd, n)


cdef inline int _put(int fd, int n) noexcept:
    return relay_send(fd, relay_buffer, n)


cdef inline bytes _held(int start, int end):
    return PyBytes_FromStringAndSize(relay_buffer + start, end - start)


cdef inline int _put_bytes(int fd, bytes data, Py_ssize_t start) noexcept:
    return relay_send(fd, PyBytes_AS_STRING(data) + start, PyBytes_GET_SIZE(data) - start)


cdef inline int _move(int source, int target, int n) noexcept:
    return relay_move(source, target, n)


cdef inline int _watch(int epoll, int fd) noexcept:
    return relay_watch(epoll, fd)


cdef inline int _unwatch(int epoll, int fd) noexcept:
    return relay_unwatch(epoll, fd)


cdef inline int _poll(int epoll) noexcept:
    return relay_poll(epoll)


cdef inline int _event_fd(int at) noexcept:
    return relay_event_fd(at)


cdef inline int _event_mask(int at) noexcept:
    return relay_event_mask(at)


cdef inline int _end_writing(int fd) noexcept:
    return relay_end_writing(fd)


cdef inline int _socket_error(int fd) noexcept:
    return relay_socket_error(fd)


cpdef int take(int fd, int n) noexcept
cpdef int put(int fd, int n) noexcept
cpdef bytes held(int start, int end)
cpdef int put_bytes(int fd, bytes data, Py_ssize_t start) noexcept
cpdef int move(int source, int target, int n) noexcept
cpdef int watch(int epoll, int fd) noexcept
cpdef int unwatch(int epoll, int fd) noexcept
cpdef int poll(int epoll) noexcept
cpdef int event_fd(int at) noexcept
cpdef int event_mask(int at) noexcept
cpdef int end_writing(int fd) noexcept
cpdef int socket_error(int fd) noexcept
