"""What was cut stays cut: the other end of a relay or an exchange can tell an incomplete stream from a whole one."""

import os
import ssl
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest

from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.settings import ServerSettings
from tests.proxy.accounts import clean_process, frozen_heap, nothing_left, until  # noqa: F401
from tests.proxy.conftest import Lab, read_head
from tests.proxy.dialogue import Road, field, read_exactly, reset

pytestmark = pytest.mark.usefixtures("nothing_left")

#: More than sockets buffer: the rest is on its way when the stream is cut.
MUCH = b"\0" + bytes(range(256)) * 4096


def end_well(sock: Any) -> None:
    """The end as it should be: close_notify, and then FIN."""
    if isinstance(sock, gevent.ssl.SSLSocket):
        sock.settimeout(5)
        sock.unwrap().close()
    else:
        sock.close()


def end_without_a_word(sock: Any) -> None:
    """TLS without close_notify, FIN below: what an attacker on the way can bring about, and what sloppy peers do."""
    os.close(sock.detach())


END: dict[str, Callable[[Any], None]] = {"well": end_well, "without close_notify": end_without_a_word, "with a reset": reset}
cuts = pytest.mark.parametrize("how", ["without close_notify", "with a reset"])


def secure(lab: Lab, sock: Any, trust: Any) -> Any:
    """TLS that tells an end without close_notify from one with it."""
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(str(trust))
    wrapped = context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False)
    lab.clients.append(wrapped)
    return wrapped


def read_to_the_end(sock: Any) -> tuple[bytes, str]:
    """All that comes, and how it ends."""
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except ssl.SSLEOFError:
        return data, "without close_notify"
    except ConnectionResetError:
        return data, "with a reset"
    return data, "well"


# HTTP


def close_delimited(how: str, version: str = "1.1") -> Callable[[Any], None]:
    """A server whose response ends with the connection."""

    def serve(sock: Any) -> None:
        read_head(sock)
        sock.sendall(f"HTTP/{version} 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf".encode())
        END[how](sock)

    return serve


@pytest.mark.parametrize("way", ["tls", "named"])
@pytest.mark.parametrize("rules", [False, True], ids=["", "through rules"])
@cuts
def test_a_response_that_ends_without_close_notify_does_not_look_whole(lab: Lab, how: str, way: str, rules: bool) -> None:
    port = lab.serve_raw(close_delimited(how), tls=True)
    road = Road(lab, "plain" if way == "named" else "tls", port)
    road.authority = f"localhost:{port}"
    if rules:
        road.proxy.on_response().do(lambda response, ctx: None)
    client = road.client()
    target = f"https://{road.authority}/" if way == "named" else "/"
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: {road.authority}\r\nConnection: close\r\n\r\n".encode())
    answer, _ = read_to_the_end(client)
    # Either a 502, where the head was not sent on yet, or a body without its last chunk.
    assert answer.startswith(b"HTTP/1.1 502 ") or not answer.endswith(b"0\r\n\r\n"), answer
    until(lambda: lab.flows and lab.flows[0].error)
    if how == "without close_notify":
        assert "close_notify" in lab.flows[0].error


def test_a_response_whose_first_bytes_were_passed_on_has_no_last_chunk(lab: Lab) -> None:
    passed = gevent.event.Event()

    def serve(sock: Any) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        passed.wait(10)
        end_without_a_word(sock)

    road = Road(lab, "tls", lab.serve_raw(serve, tls=True))
    client = road.client()
    client.sendall(road.request())
    head = read_head(client)
    assert field(head, "Transfer-Encoding") == ["chunked"] and read_exactly(client, 9) == b"4\r\nhalf\r\n"
    passed.set()
    assert read_to_the_end(client)[0] == b""


def test_a_response_that_ends_with_close_notify_is_whole(lab: Lab) -> None:
    road = Road(lab, "tls", lab.serve_raw(close_delimited("well"), tls=True))
    assert road.ask(road.client()).body == b"half"
    assert lab.flows[0].error is None


def test_servers_that_never_say_close_notify_can_be_put_up_with(lab: Lab) -> None:
    settings = ProxySettings(ignore_unexpected_eof=True)
    road = Road(lab, "tls", lab.serve_raw(close_delimited("without close_notify"), tls=True), settings=settings)
    assert road.ask(road.client()).body == b"half"
    assert lab.flows[0].error is None


def test_a_framed_response_needs_no_close_notify(lab: Lab) -> None:
    def serve(sock: Any) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwhole")
        end_without_a_word(sock)

    road = Road(lab, "tls", lab.serve_raw(serve, tls=True))
    assert road.ask(road.client()).body == b"whole"
    assert lab.flows[0].error is None


# Streams


def raw(lab: Lab, layer: str, action: str, serve: Callable[[Any], None]) -> Any:
    """A client of `serve`, through the proxy: relayed as it is, or looked into and found to be no HTTP."""
    tls = layer == "tls"
    proxy = lab.proxy(record=True)
    getattr(proxy.on_connect(), action)()
    port = lab.serve_raw(serve, tls=tls)
    sock = lab.tunnel(lab.serve_proxy(proxy), f"{'localhost' if tls else '127.0.0.1'}:{port}")
    return secure(lab, sock, lab.ca_file if action == "mitm" else lab.certificate.certfile) if tls else sock


LAYERS = [("plain", "with a reset"), ("tls", "without close_notify"), ("tls", "with a reset")]


@pytest.mark.parametrize("action", ["accept", "mitm"])
@pytest.mark.parametrize(("layer", "how"), LAYERS)
def test_a_stream_that_the_server_cuts_is_cut_at_the_client(lab: Lab, layer: str, how: str, action: str) -> None:
    cut = gevent.event.Event()

    def serve(sock: Any) -> None:
        sock.recv(1)
        sock.sendall(b"\0half")
        cut.wait(10)
        END[how](sock)

    client = raw(lab, layer, action, serve)
    client.sendall(b"\0")
    assert read_exactly(client, 5) == b"\0half"
    cut.set()
    _, end = read_to_the_end(client)
    assert end != "well"
    if layer == "plain":
        assert end == "with a reset"
    if action == "mitm":
        until(lambda: lab.flows)
        assert lab.flows[0].error


@pytest.mark.parametrize("action", ["accept", "mitm"])
@pytest.mark.parametrize(("layer", "how"), LAYERS)
def test_a_stream_that_the_client_cuts_is_cut_at_the_server(lab: Lab, layer: str, how: str, action: str) -> None:
    ends: list[str] = []
    begun = gevent.event.Event()

    def serve(sock: Any) -> None:
        if isinstance(sock, gevent.ssl.SSLSocket):
            sock.suppress_ragged_eofs = False
        sock.recv(1)
        begun.set()
        ends.append(read_to_the_end(sock)[1])

    client = raw(lab, layer, action, serve)
    client.sendall(b"\0")
    assert begun.wait(10)
    END[how](client)
    until(lambda: ends)
    assert ends != ["well"]
    if layer == "plain":
        assert ends == ["with a reset"]


@pytest.mark.parametrize("layer", ["plain", "tls"])
def test_what_was_sent_before_the_cut_arrives(lab: Lab, layer: str) -> None:
    def serve(sock: Any) -> None:
        sock.recv(1)
        sock.sendall(MUCH)
        if layer == "plain":  # a reset takes back what the proxy has not read yet
            sock.recv(1)
            reset(sock)
        else:
            end_without_a_word(sock)

    client = raw(lab, layer, "mitm", serve)
    client.sendall(b"\0")
    if layer == "plain":
        assert read_exactly(client, 1) == MUCH[:1]
        read = bytearray(MUCH[:1])
        while len(read) < len(MUCH) - 200_000:  # the rest is in the buffers of the proxy
            read += client.recv(65536)
        client.sendall(b"\0")
        gevent.sleep(0.2)
        rest, end = read_to_the_end(client)
        assert (bytes(read) + rest, end) == (MUCH, "with a reset")
    else:
        assert read_to_the_end(client) == (MUCH, "without close_notify")


@pytest.mark.parametrize("action", ["accept", "mitm"])
@pytest.mark.parametrize("layer", ["plain", "tls"])
def test_a_stream_that_ends_well_ends_well_at_the_other_end(lab: Lab, layer: str, action: str) -> None:
    def serve(sock: Any) -> None:
        sock.recv(1)
        sock.sendall(MUCH)
        end_well(sock)

    client = raw(lab, layer, action, serve)
    client.sendall(b"\0")
    assert read_to_the_end(client) == (MUCH, "well")
    end_without_a_word(client)  # as browsers do: the server has had its say, and nobody waits for more
    until(lambda: lab.flows)
    assert lab.flows[0].error is None


def test_a_tunnel_that_is_idle_for_too_long_is_cut(lab: Lab) -> None:
    proxy = lab.proxy(settings=ProxySettings(tunnel_idle_timeout=0.2))
    client = lab.tunnel(lab.serve_proxy(proxy), f"127.0.0.1:{lab.serve_raw(lambda sock: sock.recv(1))}")
    assert read_to_the_end(client) == (b"", "with a reset")


# forward


@pytest.mark.parametrize("front", ["plain", "tls"])
@pytest.mark.parametrize("how", ["well", "with a reset"])
def test_forward_passes_on_how_its_server_ends(lab: Lab, front: str, how: str) -> None:
    def serve(sock: Any) -> None:
        sock.recv(1)
        sock.sendall(b"\0half")
        END[how](sock)

    client = forwarded(lab, front, serve)
    client.sendall(b"\0")
    data, end = read_to_the_end(client)
    assert b"\0half".startswith(data)
    assert (end == "well") is (how == "well")


@pytest.mark.parametrize("front", ["plain", "tls"])
@pytest.mark.parametrize("how", list(END))
def test_forward_passes_on_how_its_client_ends(lab: Lab, front: str, how: str) -> None:
    if (front, how) == ("plain", "without close_notify"):
        pytest.skip("there is none in plain TCP")
    ends: list[str] = []
    begun = gevent.event.Event()

    def serve(sock: Any) -> None:
        sock.recv(1)
        begun.set()
        ends.append(read_to_the_end(sock)[1])

    client = forwarded(lab, front, serve)
    client.sendall(b"\0")
    assert begun.wait(10)
    gevent.spawn(END[how], client)  # whoever says close_notify waits for the answer
    until(lambda: ends)
    assert (ends == ["well"]) is (how == "well")


def forwarded(lab: Lab, front: str, serve: Callable[[Any], None]) -> Any:
    """A client of a server that forwards what is no HTTP to `serve`."""
    settings = ServerSettings(fallback=f"forward:127.0.0.1:{lab.serve_raw(serve)}")
    port = lab.serve(lambda environ, start_response: [], tls=front == "tls", settings=settings)
    sock = lab.connect(port)
    return secure(lab, sock, lab.certificate.certfile) if front == "tls" else sock
