"""`Connection.back_to_mux`: on each way to a hijacker, the next bytes choose the handler again."""

import ssl
from typing import Any

import pytest

from muxwsgi import Connection, PeerError, hijack
from muxwsgi.mux.matchers import prefix
from muxwsgi.testing import Served, Way, connection_pair


@hijack(match=prefix(b"SHOUT "), priority=1)
def shout(connection: Connection) -> None:
    with connection.makefile("rb") as lines:
        connection.sendall(lines.readline().upper())


@hijack(match=prefix(b"AGAIN\n"), priority=1)
def again(connection: Connection) -> None:
    """Takes one line, and gives the rest back."""
    assert connection.recv(6) == b"AGAIN\n"
    try:
        connection.back_to_mux()
    except PeerError as error:
        connection.sendall(str(error).encode())


@hijack(match=prefix(b"STARTTLS\n"), priority=1)
def starttls(connection: Connection) -> None:
    assert connection.recv(9) == b"STARTTLS\n"
    connection.sendall(b"go ahead\n")
    connection.start_tls().back_to_mux()


pytestmark = pytest.mark.muxwsgi(hijackers=[shout, again, starttls])


def test_what_follows_goes_to_its_own_hijacker_or_to_the_application(muxwsgi_way: Way) -> None:
    with muxwsgi_way.connect() as client:
        client.sendall(b"AGAIN\nAGAIN\nSHOUT hello\n")
        assert client.recv(100) == b"SHOUT HELLO\n"
    if "tunnel" not in muxwsgi_way.name:  # there the request would go on to its server
        with muxwsgi_way.connect() as client:
            client.sendall(b"AGAIN\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 404 ")


def test_inside_of_starttls_the_routes_inside_of_tls_are_asked(muxwsgi_way: Way, muxwsgi_served: Served) -> None:
    context = ssl.create_default_context(cafile=muxwsgi_served.ca_file)
    with muxwsgi_way.connect() as client:
        client.sendall(b"STARTTLS\n")
        assert client.recv(9) == b"go ahead\n"
        assert talk_in_tls(client, context, b"SHOUT inside\n") == b"SHOUT INSIDE\n"


def talk_in_tls(client: Any, context: ssl.SSLContext, said: bytes) -> bytes:
    """TLS over any socket, also over TLS, which `wrap_socket` cannot do."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    for step in (tls.do_handshake, lambda: tls.write(said), lambda: tls.read(100)):
        while True:
            try:
                answer = step()
                break
            except ssl.SSLWantReadError:
                if data := outgoing.read():
                    client.sendall(data)
                incoming.write(client.recv(65536))
        if data := outgoing.read():
            client.sendall(data)
    assert isinstance(answer, bytes)
    return answer


def test_a_connection_that_comes_back_for_ever_is_ended(muxwsgi_served: Served) -> None:
    with muxwsgi_served["plain"].connect() as client:
        client.sendall(b"AGAIN\n" * 100)
        assert client.recv(1000).startswith(b"400: ")


def test_without_a_server_there_is_no_mux() -> None:
    server, client = connection_pair()
    with pytest.raises(RuntimeError, match="connections of a server"):
        server.back_to_mux()
    server.close()
    client.close()
