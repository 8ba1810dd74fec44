"""OpenSSL below pyOpenSSL's public methods, and its errors as exceptions of muxwsgi."""

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

#: What one SSL_write can take into one record (RFC 8446 section 5.1).
RECORD = 16384


def as_os_error(error: SSL.Error) -> OSError:
    """The `OSError` for what OpenSSL reports."""
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
    """`ssl.recv(n)`, of one record at most."""
    return ssl.recv(min(n, RECORD))


def _write(ssl: SSL.Connection, data: Buffer) -> int:
    """`ssl.send(data)`."""
    return ssl.send(data)


# Private to pyOpenSSL, None where they are gone: `forget_errors` and `return_after_each_record` have no public names.
_private = getattr(SSL, "_lib", None)
_clear_error = getattr(_private, "ERR_clear_error", None)
_clear_mode = getattr(_private, "SSL_clear_mode", None)
_AUTO_RETRY = getattr(_private, "SSL_MODE_AUTO_RETRY", 0)


def forget_errors() -> None:
    """Empty OpenSSL's queue of errors, which the whole thread shares, after a connection has failed.

    For a write that fails below TLS pyOpenSSL takes errno and leaves the queue as it is. The next connection would
    raise it: before OpenSSL 4 as its own failure, since then where it ends without close_notify.
    """
    if _clear_error is not None:
        _clear_error()


def return_after_each_record(ssl: SSL.Connection) -> None:
    """Make `SSL_read` come back (WANT_READ) after a record without application data, where it would read the next one by itself.

    A peer that sends KeyUpdates without end would otherwise have the process to itself: no other greenlet runs, the sweeper included.
    Only on descriptors, where what is left unread is readable. SSL_clear_mode(3) is bound by pyOpenSSL and published for contexts alone,
    which serve memory BIOs too. A test notices when it goes.
    """
    if _clear_mode is not None:
        _clear_mode(ssl._ssl, _AUTO_RETRY)


try:
    # The same without what pyOpenSSL does around the call: errors are looked for only where there is one, and bytes are passed as they
    # are. It saves about 3 us of 33 a request. The names are private. Where they are gone, the public methods above serve, and a
    # test fails.
    from OpenSSL.SSL import _ffi, _lib, _no_zero_allocator  # type: ignore[attr-defined]

    _SSL_read, _SSL_write, _unpack = _lib.SSL_read, _lib.SSL_write, _ffi.unpack
    _raise_ssl_error = SSL.Connection._raise_ssl_error
    _spare: list[Any] = []

    def _read_direct(ssl: SSL.Connection, n: int) -> bytes:
        # One buffer for all, taken and put back so that two threads never share it: cffi releases the GIL.
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
    """Where SSL_read, SSL_write, SSL_do_handshake and SSL_get_error are, which pyOpenSSL calls through cffi; zeros where that is unknown.

    The compiled build calls them there, see descriptor.pxd: looking up, converting arguments and giving the GIL away for a call that
    never waits cost a tenth of an exchange. The names are private. Where they are gone, `read` and `write` serve, and a test fails.
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
    """The SSL* of `ssl`, good for as long as that lives; 0 where it cannot be had."""
    try:
        return int(_ffi.cast("uintptr_t", ssl._ssl))
    except (AttributeError, TypeError):
        return 0


def fail(ssl: SSL.Connection, failed: tuple[int, int]) -> NoReturn:
    """Raise what pyOpenSSL does, for what OpenSSL's function gave back and errno, which is looked for where cffi keeps it."""
    count, _ffi.errno = failed
    _raise_ssl_error(ssl, ssl._ssl, count)
    raise SSL.SysCallError(-1, "Unexpected EOF")  # not reached: it was a failure
