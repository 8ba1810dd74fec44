"""ClientHellos that OpenSSL accepts, and by which a client might get around the routes that look at its server name."""

from collections.abc import Callable
from typing import Any

import gevent.socket
import pytest
from OpenSSL import SSL

from muxwsgi.settings import CertificateFiles, MuxSettings
from tests.server.test_routes import GET, serving

DECODE_ERROR = b"\x15\x03\x03\x00\x02\x02\x32"


def record(payload: bytes, minor: int = 1) -> bytes:
    return b"\x16\x03" + bytes((minor,)) + len(payload).to_bytes(2, "big") + payload


def asked(address: str, name: bytes, spelled: Callable[[bytes], bytes]) -> bytes:
    """The response to a GET in TLS; the first bytes that come if that is not a handshake; b"reset". `spelled` makes the records of the
    ClientHello, which is given to it as a message."""
    host, _, port = address.rpartition(":")
    sock = gevent.socket.create_connection((host, int(port)), 20)
    tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    tls.set_tlsext_host_name(name)
    tls.set_connect_state()
    try:
        with pytest.raises(SSL.WantReadError):
            tls.do_handshake()
        sock.sendall(spelled(tls.bio_read(65536)[5:]))
        began = sock.recv(65536)
        if began[:1] != b"\x16":
            return began
        tls.bio_write(began)
        while True:
            try:
                tls.do_handshake()
                break
            except SSL.WantReadError:
                tls.bio_write(sock.recv(65536))
        tls.sendall(GET)
        sock.sendall(tls.bio_read(65536))
        received = b""
        while more := sock.recv(65536):
            tls.bio_write(more)
            try:
                received += tls.recv(65536)
            except (SSL.WantReadError, SSL.ZeroReturnError):
                pass
        return received
    except ConnectionResetError:
        return b"reset"
    finally:
        sock.close()


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "an empty record": lambda hello: record(b"") + record(hello),
    "an empty record in the middle": lambda hello: record(hello[:6]) + record(b"") + record(hello[6:]),
    "a record for each byte": lambda hello: b"".join(record(hello[at : at + 1]) for at in range(len(hello))),
    "a part, and no more in time": lambda hello: record(hello)[:40],
}


@pytest.mark.parametrize("tls", ["required", "optional"])
def test_a_client_cannot_choose_whether_routes_ask_for_its_name(make_certificate: Callable[..., CertificateFiles], tls: str) -> None:
    files = make_certificate()
    bind = f"127.0.0.1:0,certfile={files.certfile},tls={tls}"
    options: dict[str, Any] = {"binds": [bind], "mux": MuxSettings(sniff_timeout=0.5)}
    with serving({"sni": "localhost", "to": "reject"}, **options) as server:
        for how, spelled in SPELLINGS.items():
            said = asked(server.addresses[0], b"localhost", spelled)
            plain = tls == "optional" and how == "an empty record"  # then nothing takes it
            assert said == (b"reset" if plain else DECODE_ERROR), how
        assert asked(server.addresses[0], b"localhost", record) == b"reset"
        assert asked(server.addresses[0], b"localhost", lambda hello: record(hello[:9]) + record(hello[9:], minor=9)) == b"reset"
        assert asked(server.addresses[0], b"other.example", record).startswith(b"HTTP/1.1 200 OK")
    with serving(**options) as server:  # no route looks at it, so OpenSSL decides
        assert asked(server.addresses[0], b"localhost", record).startswith(b"HTTP/1.1 200 OK")
