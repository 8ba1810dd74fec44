"""Calls of OpenSSL that pyOpenSSL does not publish, and OpenSSL's errors as exceptions of muxwsgi."""

import errno
import os
from typing import Any, NoReturn

from OpenSSL import SSL

from muxwsgi.errors import HandshakeError, TLSError
from muxwsgi.wire.transport import Buffer

__all__ = [
    "RECORD",
    "address",
    "as_os_error",
    "fail",
    "forget_errors",
    "functions",
    "handshake_error",
    "read",
    "return_after_each_record",
    "write",
]

#: Bytes of plaintext in one record at most (RFC 8446 section 5.1).
RECORD = 16384


def as_os_error(error: SSL.Error) -> OSError:
    """The `OSError` for an error of OpenSSL."""
    forget_errors()
    if isinstance(error, SSL.SysCallError):
        code = error.args[0]
        if code > 0:
            return OSError(code, os.strerror(code))
        return ConnectionResetError(errno.ECONNRESET, "the peer ended TLS without close_notify")
    return TLSError(errno.EPROTO, _reasons(error))


def _reasons(error: SSL.Error) -> str:
    """OpenSSL's queue of (library, function, reason) as one line."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "TLS: " + ("; ".join(entry[-1] for entry in queue) or "the layer is unusable after an earlier error")


def handshake_error(error: SSL.Error) -> HandshakeError:
    forget_errors()
    if isinstance(error, SSL.SysCallError):
        cause = "the peer went away" if error.args[0] <= 0 else os.strerror(error.args[0])
        return HandshakeError(errno.ECONNABORTED, f"TLS handshake: {cause}")
    return HandshakeError(errno.ECONNABORTED, _reasons(error).replace("TLS:", "TLS handshake:", 1))


def _read(ssl: SSL.Connection, n: int) -> bytes:
    """`ssl.recv(n)`, from one record at most."""
    return ssl.recv(min(n, RECORD))


def _write(ssl: SSL.Connection, data: Buffer) -> int:
    """`ssl.send(data)`."""
    return ssl.send(data)


# pyOpenSSL's private binding, None if it does not exist. `forget_errors` and `return_after_each_record` use it, because pyOpenSSL has no
# public names for these functions.
_private = getattr(SSL, "_lib", None)
_clear_error = getattr(_private, "ERR_clear_error", None)
_clear_mode = getattr(_private, "SSL_clear_mode", None)
_AUTO_RETRY = getattr(_private, "SSL_MODE_AUTO_RETRY", 0)


def forget_errors() -> None:
    """Empty OpenSSL's queue of errors after a connection has failed. The whole thread shares the queue.

    If a write fails below TLS, pyOpenSSL uses errno and leaves the queue as it is. The next connection would raise the error that is left:
    before OpenSSL 4 as if it had failed itself, since OpenSSL 4 when it ends without close_notify.
    """
    if _clear_error is not None:
        _clear_error()


def return_after_each_record(ssl: SSL.Connection) -> None:
    """Make `SSL_read` return (WANT_READ) after a record without application data, instead of reading the next one.

    Otherwise a peer that sends KeyUpdates without end occupies the process: no other greenlet runs, not even the sweeper. This is for
    descriptors only, because there the watcher announces unread records. pyOpenSSL publishes SSL_clear_mode(3) for contexts only, and a
    context also serves memory BIOs. If the private name disappears, a test fails.
    """
    if _clear_mode is not None:
        _clear_mode(ssl._ssl, _AUTO_RETRY)


try:
    # The same with less work around the call than in pyOpenSSL: errors are looked up only after a failure, and bytes are not copied.
    # It saves about 3 us of 33 a request. The names are private. If they disappear, the public methods above are used, and a test fails.
    from OpenSSL.SSL import _ffi, _lib, _no_zero_allocator  # type: ignore[attr-defined]

    _SSL_read, _SSL_write, _unpack = _lib.SSL_read, _lib.SSL_write, _ffi.unpack
    _raise_ssl_error = SSL.Connection._raise_ssl_error
    _spare: list[Any] = []

    def _read_direct(ssl: SSL.Connection, n: int) -> bytes:
        # All reads use one buffer. A read takes it out of the list and puts it back, because cffi releases the GIL and two threads must not
        # share the buffer.
        buffer = _spare.pop() if _spare else _no_zero_allocator("char[]", RECORD)
        count = _SSL_read(ssl._ssl, buffer, n if n < RECORD else RECORD)
        if count <= 0:
            _spare.append(buffer)
            _raise_ssl_error(ssl, ssl._ssl, count)
        data: bytes = _unpack(buffer, count)
        _spare.append(buffer)
        return data

    def _write_direct(ssl: SSL.Connection, data: Buffer) -> int:
        if type(data) is not bytes:
            return ssl.send(data)
        count: int = _SSL_write(ssl._ssl, data, len(data))
        if count <= 0:
            _raise_ssl_error(ssl, ssl._ssl, count)
        return count

    read, write = _read_direct, _write_direct
except (ImportError, AttributeError):
    read, write = _read, _write


def functions() -> tuple[int, int, int, int]:
    """The addresses of SSL_read, SSL_write, SSL_do_handshake and SSL_get_error; zeros if they are unknown.

    The compiled build calls the functions by address (see descriptor.pxd), and not through cffi as pyOpenSSL does. cffi looks up names,
    converts arguments and releases the GIL for calls that never wait, which costs a tenth of an exchange. The names are private. If they
    disappear, `read` and `write` are used, and a test fails.
    """
    try:
        from cryptography.hazmat.bindings._rust import _openssl

        ffi, lib = _openssl.ffi, _openssl.lib
        if _lib.SSL_ERROR_WANT_READ != 2 or not isinstance(_ffi.errno, int):  # descriptor.pxd knows the number, `fail` sets errno
            return 0, 0, 0, 0
        names = ("SSL_read", "SSL_write", "SSL_do_handshake", "SSL_get_error")
        reading, writing, shaking, error = (int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in names)
    except (ImportError, AttributeError, TypeError, NameError):
        return 0, 0, 0, 0
    return reading, writing, shaking, error


def address(ssl: SSL.Connection) -> int:
    """The SSL* of `ssl`, valid as long as `ssl` exists; 0 if it cannot be found."""
    try:
        return int(_ffi.cast("uintptr_t", ssl._ssl))
    except (AttributeError, TypeError):
        return 0


def fail(ssl: SSL.Connection, failed: tuple[int, int]) -> NoReturn:
    """Raise the exception of pyOpenSSL for `failed`: the return value of OpenSSL's function, and errno. pyOpenSSL reads cffi's errno."""
    count, _ffi.errno = failed
    _raise_ssl_error(ssl, ssl._ssl, count)
    raise SSL.SysCallError(-1, "Unexpected EOF")  # not reached: it was a failure
