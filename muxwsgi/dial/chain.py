"""Opens a tunnel through the next proxy: CONNECT (RFC 9110 section 9.3.6), SOCKS5 (RFC 1928 and 1929), SOCKS4a.

Exactly the proxy's answer is consumed, because the bytes after it belong to the stream. A 2xx answer to CONNECT has no body, and other
answers are only reported. So only the status line is parsed, and no HTTP client is needed. The caller sets the connection's deadline and
closes it.
"""

import re
import socket as socket_module

from muxwsgi.dial.errors import Loop, ProxyRefused, ProxyUnreachable
from muxwsgi.dial.resolve import Resolved, literal
from muxwsgi.dial.upstream_proxy import UpstreamProxy
from muxwsgi.names import join_host_port
from muxwsgi.wire.connection import Connection

__all__ = ["request_stream"]

#: Bytes of the head of an answer to CONNECT at most. The body of an error is not read.
HEAD_LIMIT = 32768

#: Interim responses that are skipped before the answer.
INTERIM_LIMIT = 8

#: RFC 5842 section 7.2
LOOP_DETECTED = 508

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: ([^\r\n]*))?")

_SOCKS5_REPLIES = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
    7: "it knows no CONNECT",
    8: "it does not know this type of address",
}

#: Replies after which another address of the same name may work.
_SOCKS5_UNREACHABLE = frozenset({1, 3, 4, 5, 6, 8})

_SOCKS4_REPLIES = {
    91: "rejected or failed",
    92: "it cannot reach the identd of this host",
    93: "the identd of this host reports another user",
}


def request_stream(connection: Connection, via: UpstreamProxy, host: str, port: int, via_field: str = "") -> None:
    """Have the proxy at the other end of `connection` make it a stream to `host`, an address or a name in ASCII. `via_field` is the value
    of Via, for an HTTP proxy; "" for none.

    Raises `ProxyRefused` or `Loop` if the proxy refuses, and `OSError` (also `Expired`) from the connection.
    """
    if via.speaks_http:
        _connect(connection, via, host, port, via_field)
    elif via.scheme == "socks4a":
        _socks4a(connection, via, host, port)
    else:
        _socks5(connection, via, host, port)


def _connect(connection: Connection, via: UpstreamProxy, host: str, port: int, via_field: str) -> None:
    authority = join_host_port(host, port)
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if via.authorization is not None:
        lines.append(f"Proxy-Authorization: {via.authorization}")
    if via_field:
        lines.append(f"Via: {via_field}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    for _ in range(INTERIM_LIMIT):
        status, reason = _status(_head(connection, via), via)
        if 200 <= status < 300:  # framing fields of such an answer are ignored (RFC 9110 section 9.3.6)
            return
        if not 100 <= status < 200 or status == 101:
            kind = Loop if status == LOOP_DETECTED else ProxyRefused  # the loop may have been found by a proxy further on
            raise kind(f"the proxy {via} answered {status} {reason}".rstrip())
    raise ProxyRefused(f"the proxy {via} sends interim responses and no answer")


def _head(connection: Connection, via: UpstreamProxy) -> bytes:
    """The next head, without the empty line that ends it."""
    read = bytearray()
    while True:
        searched = max(len(read) - 3, 0)
        data = connection.recv(HEAD_LIMIT)
        if not data:
            raise _closed(via)
        read += data
        end = read.find(b"\r\n\r\n", searched)
        if end >= 0:
            connection.unread(bytes(read[end + 4 :]))
            return bytes(read[:end])
        if len(read) > HEAD_LIMIT:
            raise ProxyRefused(f"the proxy {via} answered with a head of more than {HEAD_LIMIT} bytes")


def _status(head: bytes, via: UpstreamProxy) -> tuple[int, str]:
    match = _STATUS_LINE.fullmatch(head.partition(b"\r\n")[0])
    if match is None:
        raise ProxyRefused(f"the proxy {via} did not answer in HTTP/1.1")
    reason = (match[2] or b"").decode("latin-1")
    return int(match[1]), "".join(char if char.isprintable() else "?" for char in reason[:100])


def _socks5(connection: Connection, via: UpstreamProxy, host: str, port: int) -> None:
    # 1. The authentication methods: none, and user name with password if we have them.
    connection.sendall(b"\x05\x01\x00" if via.username is None else b"\x05\x02\x00\x02")
    version, method = _exactly(connection, 2, via)
    if version != 5:
        raise ProxyRefused(f"the proxy {via} does not speak SOCKS5")
    if method == 2 and via.username is not None:
        user, password = via.username.encode(), (via.password or "").encode()
        connection.sendall(bytes([1, len(user)]) + user + bytes([len(password)]) + password)
        if _exactly(connection, 2, via)[1] != 0:
            raise ProxyRefused(f"the proxy {via} does not take our user name and password")
    elif method != 0:
        wants = "takes none of our ways to authenticate" if via.username is not None else "wants authentication"
        raise ProxyRefused(f"the proxy {via} {wants}")
    # 2. The destination.
    connection.sendall(b"\x05\x01\x00" + _socks5_address(literal(host), host) + port.to_bytes(2, "big"))
    version, reply, _, kind = _exactly(connection, 4, via)
    if version != 5:
        raise ProxyRefused(f"the proxy {via} does not speak SOCKS5")
    if reply:
        refused = ProxyUnreachable if reply in _SOCKS5_UNREACHABLE else ProxyRefused
        raise refused(f"the proxy {via} answered: {_SOCKS5_REPLIES.get(reply, f'reply {reply}')}")
    # 3. The address that the proxy connects from. It must be read, but it is not used.
    if kind == 1:
        length = 4
    elif kind == 4:
        length = 16
    elif kind == 3:
        length = _exactly(connection, 1, via)[0]
    else:
        raise ProxyRefused(f"the proxy {via} answered with an address of type {kind}")
    _exactly(connection, length + 2, via)


def _socks5_address(known: Resolved | None, host: str) -> bytes:
    if known is None:
        name = host.encode("ascii")  # 253 bytes at most: see `host_name`
        return bytes([3, len(name)]) + name
    return (b"\x01" if known[0] == socket_module.AF_INET else b"\x04") + socket_module.inet_pton(*known)


def _socks4a(connection: Connection, via: UpstreamProxy, host: str, port: int) -> None:
    known = literal(host)
    if known is not None and known[0] != socket_module.AF_INET:
        raise ProxyRefused(f"the proxy {via} cannot be asked for {host}: SOCKS4a knows no IPv6")
    # The invalid address 0.0.0.x means that a name follows.
    address = b"\x00\x00\x00\x01" if known is None else socket_module.inet_aton(known[1])
    name = host.encode("ascii") + b"\x00" if known is None else b""
    user = (via.username or "").encode()
    connection.sendall(b"\x04\x01" + port.to_bytes(2, "big") + address + user + b"\x00" + name)
    version, reply, *_ = _exactly(connection, 8, via)
    if version != 0:
        raise ProxyRefused(f"the proxy {via} does not speak SOCKS4")
    if reply != 90:
        refused = ProxyUnreachable if reply == 91 else ProxyRefused
        raise refused(f"the proxy {via} answered: {_SOCKS4_REPLIES.get(reply, f'reply {reply}')}")


def _exactly(connection: Connection, count: int, via: UpstreamProxy) -> bytes:
    """The next `count` bytes. No more bytes are read, so that TLS can take the descriptor over."""
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise _closed(via)
        data += more
    return data


def _closed(via: UpstreamProxy) -> ProxyRefused:
    return ProxyRefused(f"the proxy {via} closed the connection without an answer")
