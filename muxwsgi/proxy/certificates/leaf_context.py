"""What TLS with minted leaves is served with: one OpenSSL context for all, which shows the leaf of the connection that is made next.

A context for each leaf would cost 120 us and 20 KiB, and its sessions would go with it. The price of sharing one is that OpenSSL would
resume one host's TLS 1.3 session for another (in 1.3 it does not associate the server name with the session). So each connection is made
with a session id context of its own, which OpenSSL keeps in the ticket and compares.

Neither has a public name in pyOpenSSL that fits: `Connection.use_certificate` parses the certificate anew each time (65 us instead of 4)
or warns, and contexts cannot be changed after their first use. The functions that do it directly stand at the end, with what serves where
they are missing.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from socket import socket

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
    """Serves hosts with the operator's own certificates where there are any, and with minted leaves where not.

    Make it once, before a process forks: sessions of a context are resumed by all who share it.
    """

    def __init__(
        self,
        leaves: Leaves,
        *,
        alpn: Sequence[str] = (),
        own: Mapping[str, CertificateFiles] | None = None,
        key_log: KeyLog | None = None,
    ) -> None:
        """`alpn` are the ids offered, the one we like best first. `own` are certificates for a host, or for `*.example.com`: all hosts
        that are one label longer than `example.com`. Raises `OperatorError` where one of them cannot be served.
        """
        self.leaves = leaves
        self._alpn = tuple(protocol.encode("ascii") for protocol in alpn)
        self._key_log = key_log
        self._front = self._context()
        self._shown: Leaf | None = None  # what connections begin with that are made in the front context now
        self._front.use_privatekey(leaves.key)
        for certificate in leaves.authority.chain:
            self._front.add_extra_chain_cert(certificate)
        self._own = {_pattern(pattern): self._own_context(pattern, files) for pattern, files in (own or {}).items()}

    def for_host(self, host: str, also: tuple[str, ...] = (), like: x509.Certificate | None = None) -> ServerSide:
        """What `Connection.start_tls` takes to serve `host`; the arguments and errors are those of `Leaves.get`."""
        if self._own:
            name = canonical(host)
            context = self._own.get(name) or self._own.get("*." + name.partition(".")[2])
            if context is not None:
                return _OwnSide(context, sha256(name.encode()).digest())
        return self.for_leaf(self.leaves.get(host, also, like))

    def for_leaf(self, leaf: Leaf) -> ServerSide:
        """The same for a leaf, which must be one of `leaves`."""
        return _LeafSide(self, leaf)

    def _begin_with(self, leaf: Leaf, sock: socket | None) -> SSL.Connection:
        """A connection in the front context that shows `leaf`. OpenSSL looks at a certificate's key each time that it is given one: so it
        is given one only where it is another than the last one."""
        if leaf is not self._shown:
            self._shown = None
            _show(self._front, leaf)
            self._shown = leaf
        return _begin_shown(self._front, sock, leaf)

    def _context(self) -> SSL.Context:
        context = server_openssl(self._alpn)
        # Only where there is a callback does a TLS 1.2 session remember the name, and the client hear that it was understood.
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
            raise OperatorError(f"certfile: {files.certfile} is not for {pattern} but for {', '.join(names) or 'nobody'}")
        return context


class _LeafSide:
    """A leaf in the context that all leaves share."""

    __slots__ = ("_leaf", "_leaves")

    def __init__(self, leaves: LeafContext, leaf: Leaf) -> None:
        self._leaves = leaves
        self._leaf = leaf

    def connection(self, sock: socket | None) -> SSL.Connection:
        ssl = self._leaves._begin_with(self._leaf, sock)
        ssl.set_accept_state()
        return ssl


class _OwnSide:
    """A certificate of the operator's, in a context of its own."""

    __slots__ = ("_context", "_session_id")

    def __init__(self, context: SSL.Context, session_id: bytes) -> None:
        self._context = context
        self._session_id = session_id

    def connection(self, sock: socket | None) -> SSL.Connection:
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
    """Says that the server name is fine: the leaf was chosen before the handshake."""


def _prepare_public(context: SSL.Context) -> None:
    context.set_options(SSL.OP_NO_TICKET)  # no session is resumed: better than one for another host
    context.set_session_id(b"muxwsgi")


def _begin_public(context: SSL.Context, sock: socket | None, session_id: bytes) -> SSL.Connection:
    return SSL.Connection(context, sock)


def _show_public(context: SSL.Context, leaf: Leaf) -> None:
    """Nothing: what a context shows cannot be changed after its first connection."""


def _begin_shown_public(context: SSL.Context, sock: socket | None, leaf: Leaf) -> SSL.Connection:
    ssl = SSL.Connection(context, sock)
    ssl.use_certificate(leaf.certificate)
    return ssl


try:
    from OpenSSL.SSL import _lib  # type: ignore[attr-defined]

    _set_session_id, _use_certificate = _lib.SSL_CTX_set_session_id_context, _lib.SSL_CTX_use_certificate
    _clear_error = _lib.ERR_clear_error

    def _prepare_direct(context: SSL.Context) -> None:
        """Nothing: sessions are told apart by the session id context."""

    # SSL_new copies what the context has, and nobody else runs between that and what is set here.

    def _bind_sessions(context: SSL.Context, session_id: bytes) -> None:
        if _set_session_id(context._context, session_id, len(session_id)) != 1:
            raise ValueError("OpenSSL does not take the session id context")

    def _begin_direct(context: SSL.Context, sock: socket | None, session_id: bytes) -> SSL.Connection:
        _bind_sessions(context, session_id)
        return SSL.Connection(context, sock)

    def _show_direct(context: SSL.Context, leaf: Leaf) -> None:
        _bind_sessions(context, leaf.session_id)
        if _use_certificate(context._context, leaf.openssl._x509) != 1:
            _clear_error()
            raise ValueError(f"OpenSSL does not take the leaf for {leaf.names[0]}")

    def _begin_shown_direct(context: SSL.Context, sock: socket | None, leaf: Leaf) -> SSL.Connection:
        return SSL.Connection(context, sock)

    _prepare, _begin, _show, _begin_shown = _prepare_direct, _begin_direct, _show_direct, _begin_shown_direct
except (ImportError, AttributeError):
    _prepare, _begin, _show, _begin_shown = _prepare_public, _begin_public, _show_public, _begin_shown_public
