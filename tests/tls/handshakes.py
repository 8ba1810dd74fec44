"""Handshakes in memory: our server, and as client Python's ssl, which is another OpenSSL than the one that pyOpenSSL brings."""

import ssl

from cryptography import x509
from OpenSSL import SSL

from muxwsgi.settings import CertificateFiles, TLSSettings
from muxwsgi.wire.tls.info import TLSInfo
from muxwsgi.wire.tls.server_context import ServerContext
from tests.tls.authority import Authority

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Refused(Exception):
    """A handshake that failed: what each side met."""

    def __init__(self, client: Exception | None, server: Exception | None) -> None:
        super().__init__(f"client: {client!r}, server: {server!r}")
        self.client = client
        self.server = server


class Talk:
    """A client and a server with memory between them."""

    def __init__(
        self, server: ServerContext, client: ssl.SSLContext, name: str | None = "a.example", session: ssl.SSLSession | None = None
    ) -> None:
        self.server = server.connection(None)
        self._to_client, self._from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self._to_client, self._from_client, server_hostname=name, session=session)

    def begin(self) -> None:
        """The ClientHello is on its way, and the server has not seen it."""
        try:
            self.client.do_handshake()
        except ssl.SSLWantReadError:
            pass

    def handshake(self) -> TLSInfo:
        """Raises `Refused`. One byte goes back, so that the client has its tickets, and knows of a certificate that was not liked."""
        client_error: Exception | None = None
        server_error: Exception | None = None
        client_done = server_done = False
        for _ in range(10):
            if not client_done and client_error is None:
                try:
                    self.client.do_handshake()
                    client_done = True
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError as error:
                    client_error = error
            self.carry()
            if not server_done and server_error is None:
                try:
                    self.server.do_handshake()
                    server_done = True
                except SSL.WantReadError:
                    pass
                except SSL.Error as error:
                    server_error = error
            self.carry()
            if client_error or server_error:
                continue  # the alert, on its way
            if client_done and server_done:
                break
        if server_done and client_done:
            self.answer(b"x")
            return TLSInfo.of(self.server)
        if client_done and client_error is None:
            try:
                self.client.read(1)
            except ssl.SSLError as error:
                client_error = error
        raise Refused(client_error, server_error)

    def carry(self) -> None:
        if self._from_client.pending:
            self.server.bio_write(self._from_client.read())
        try:
            self._to_client.write(self.server.bio_read(1 << 20))
        except SSL.WantReadError:
            pass

    def ask(self, data: bytes) -> None:
        """From the client to the server."""
        self.client.write(data)
        self.carry()
        assert self.server.recv(1 << 14) == data

    def answer(self, data: bytes) -> None:
        """From the server to the client."""
        self.server.send(data)
        self.carry()
        assert self.client.read(1 << 14) == data


def handshake(
    server: ServerContext, client: ssl.SSLContext, name: str | None = "a.example", session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, TLSInfo]:
    """What the client and what the server has after a handshake. Raises `Refused`."""
    talk = Talk(server, client, name, session)
    info = talk.handshake()
    return talk.client, info


def settings(*certificates: CertificateFiles, **more: object) -> TLSSettings:
    return TLSSettings(certificates=certificates, **more)  # type: ignore[arg-type]


def client_context(
    trusted: Authority | None = None, version: ssl.TLSVersion | None = None, certificate: CertificateFiles | None = None
) -> ssl.SSLContext:
    """A client that has the root of `trusted` alone; without it, it verifies nothing."""
    context = ssl.create_default_context(cafile=trusted.root if trusted else None)
    if trusted is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if certificate is not None:
        context.load_cert_chain(certificate.certfile, certificate.keyfile)
    return context


def shown(client: ssl.SSLObject) -> str:
    """The first name of the certificate that the client got; its CN where it has no other."""
    der = client.getpeercert(True)
    assert der is not None
    certificate = x509.load_der_x509_certificate(der)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)
    return str(next(iter(names)).value)


def raw_client(server: ServerContext, sni: bytes) -> tuple[SSL.Connection, SSL.Connection]:
    """Client and server of a handshake with any bytes as server name, which Python's ssl does not send."""
    tls = server.connection(None)
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    client.set_connect_state()
    client.set_tlsext_host_name(sni)
    for _ in range(3):
        for side, other in ((client, tls), (tls, client)):
            try:
                side.do_handshake()
            except SSL.WantReadError:
                pass
            try:
                other.bio_write(side.bio_read(1 << 20))
            except SSL.WantReadError:
                pass
    return client, tls
