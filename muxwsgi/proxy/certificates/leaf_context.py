"""Serves TLS with minted leaves. One OpenSSL context is shared by all leaves, and gets the leaf of the next connection before each one.

A context for each leaf would cost 120 us and 20 KiB, and its sessions would be lost with it. With a shared context, OpenSSL would resume
the TLS 1.3 session of one host for another, because in 1.3 it does not bind the server name to the session. So the leaf's hosts are set as
the session id context of each connection. OpenSSL stores it in the ticket and compares it.

pyOpenSSL has no suitable public function for either. `Connection.use_certificate` parses the certificate each time (65 us instead of 4) or
warns, and contexts cannot be changed after their first use. So the functions at the end call OpenSSL directly. If those are missing, slower
public ones are used.
"""

import socket
from collections.abc import Mapping, Sequence
from hashlib import sha256

from cryptography import x509
from OpenSSL import SSL

from muxwsgi.errors import OperatorError
from muxwsgi.names import Breadth, InvalidName, canonical, parse_pattern
from muxwsgi.proxy.certificates.key_log import KeyLog
from muxwsgi.proxy.certificates.leaves import Leaf, Leaves
from muxwsgi.settings import CertificateFiles
from muxwsgi.wire.tls.certificate_files import certificate_names, use_certificate
from muxwsgi.wire.tls.server_context import ServerSide, server_openssl

__all__ = ["LeafContext"]


class LeafContext:
    """Serves hosts with the operator's certificates where they match, else with minted leaves.

    Make it once, before a process forks, so that all workers resume the same sessions.
    """

    def __init__(
        self,
        leaves: Leaves,
        *,
        alpn: Sequence[str] = (),
        own: Mapping[str, CertificateFiles] | None = None,
        key_log: KeyLog | None = None,
    ) -> None:
        """`alpn` are the ids offered, in the order of preference. `own` are certificates for a host, or for `*.example.com`: all hosts one
        label longer than `example.com`. Raises `OperatorError` if one of them cannot be used.
        """
        self.leaves = leaves
        self._alpn = tuple(protocol.encode("ascii") for protocol in alpn)
        self._key_log = key_log
        self._front = self._context()
        self._shown: Leaf | None = None  # the leaf that the front context has now
        self._front.use_privatekey(leaves.key)
        for certificate in leaves.authority.chain:
            self._front.add_extra_chain_cert(certificate)
        self._own = {_pattern(pattern): self._own_context(pattern, files) for pattern, files in (own or {}).items()}

    def for_host(self, host: str, also: tuple[str, ...] = (), like: x509.Certificate | None = None) -> ServerSide:
        """The argument for `Connection.start_tls` to serve `host`. The arguments and errors are those of `Leaves.get`."""
        if self._own:
            name = canonical(host)
            context = self._own.get(name) or self._own.get("*." + name.partition(".")[2])
            if context is not None:
                return _OwnSide(context, sha256(name.encode()).digest())
        return self.for_leaf(self.leaves.get(host, also, like))

    def for_leaf(self, leaf: Leaf) -> ServerSide:
        """The same for a leaf, which must be one of `leaves`."""
        return _LeafSide(self, leaf)

    def _begin_with(self, leaf: Leaf, sock: socket.socket | None) -> SSL.Connection:
        """A connection in the front context with `leaf`. The leaf is set only if it differs from the last one, because OpenSSL checks the
        key of each certificate that is set."""
        if leaf is not self._shown:
            self._shown = None
            _show(self._front, leaf)
            self._shown = leaf
        return _begin_shown(self._front, sock, leaf)

    def _context(self) -> SSL.Context:
        context = server_openssl(self._alpn)
        # Without a callback, a TLS 1.2 session does not keep the server name, and the client gets no confirmation of it.
        context.set_tlsext_servername_callback(_take_name)
        _prepare(context)
        if self._key_log is not None:
            self._key_log.attach(context)
        return context

    def _own_context(self, pattern: str, files: CertificateFiles) -> SSL.Context:
        context = self._context()
        use_certificate(context, files)
        name, names = _pattern(pattern), certificate_names(files)
        if name not in names and "*." + name.partition(".")[2] not in names:
            raise OperatorError(f"certfile: {files.certfile} is not for {pattern} but for {', '.join(names) or 'no host'}")
        return context


class _LeafSide:
    """A leaf, in the shared context."""

    __slots__ = ("_leaf", "_leaves")

    def __init__(self, leaves: LeafContext, leaf: Leaf) -> None:
        self._leaves = leaves
        self._leaf = leaf

    def connection(self, sock: socket.socket | None) -> SSL.Connection:
        ssl = self._leaves._begin_with(self._leaf, sock)
        ssl.set_accept_state()
        return ssl


class _OwnSide:
    """A certificate of the operator, in a separate context."""

    __slots__ = ("_context", "_session_id")

    def __init__(self, context: SSL.Context, session_id: bytes) -> None:
        self._context = context
        self._session_id = session_id

    def connection(self, sock: socket.socket | None) -> SSL.Connection:
        ssl = _begin(self._context, sock, self._session_id)
        ssl.set_accept_state()
        return ssl


def _pattern(pattern: str) -> str:
    try:
        host, breadth = parse_pattern(pattern, Breadth.ONE_LABEL)
    except InvalidName:
        raise OperatorError(f"{pattern!a} is neither a host, an address nor *.domain") from None
    return host if breadth is None else f"*.{host}"


def _take_name(ssl: SSL.Connection) -> None:
    """Accepts the server name. The leaf was chosen before the handshake."""


def _prepare_public(context: SSL.Context) -> None:
    context.set_options(SSL.OP_NO_TICKET)  # so no session is resumed, and none for another host
    context.set_session_id(b"muxwsgi")


def _begin_public(context: SSL.Context, sock: socket.socket | None, session_id: bytes) -> SSL.Connection:
    return SSL.Connection(context, sock)


def _show_public(context: SSL.Context, leaf: Leaf) -> None:
    """Does nothing: the certificate of a context cannot be changed after its first connection."""


def _begin_shown_public(context: SSL.Context, sock: socket.socket | None, leaf: Leaf) -> SSL.Connection:
    ssl = SSL.Connection(context, sock)
    ssl.use_certificate(leaf.certificate)
    return ssl


try:
    from OpenSSL.SSL import _lib  # type: ignore[attr-defined]

    _set_session_id, _use_certificate = _lib.SSL_CTX_set_session_id_context, _lib.SSL_CTX_use_certificate
    _clear_error = _lib.ERR_clear_error

    def _prepare_direct(context: SSL.Context) -> None:
        """Does nothing: the session id context keeps sessions apart."""

    # SSL_new copies the settings of the context. No other greenlet runs between setting them here and SSL_new.

    def _bind_sessions(context: SSL.Context, session_id: bytes) -> None:
        if _set_session_id(context._context, session_id, len(session_id)) != 1:
            raise ValueError("OpenSSL does not accept the session id context")

    def _begin_direct(context: SSL.Context, sock: socket.socket | None, session_id: bytes) -> SSL.Connection:
        _bind_sessions(context, session_id)
        return SSL.Connection(context, sock)

    def _show_direct(context: SSL.Context, leaf: Leaf) -> None:
        _bind_sessions(context, leaf.session_id)
        if _use_certificate(context._context, leaf.openssl._x509) != 1:
            _clear_error()
            raise ValueError(f"OpenSSL does not accept the leaf for {leaf.names[0]}")

    def _begin_shown_direct(context: SSL.Context, sock: socket.socket | None, leaf: Leaf) -> SSL.Connection:
        return SSL.Connection(context, sock)

    _prepare, _begin, _show, _begin_shown = _prepare_direct, _begin_direct, _show_direct, _begin_shown_direct
except (ImportError, AttributeError):
    _prepare, _begin, _show, _begin_shown = _prepare_public, _begin_public, _show_public, _begin_shown_public
