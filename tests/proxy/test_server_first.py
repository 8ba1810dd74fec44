"""Protocols in which the server speaks first: the client waits for its greeting, and for nothing else."""

import logging
from typing import Any

import gevent
import pytest

from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.rules.actions import CONTINUE
from muxwsgi.proxy.rules.message import Response
from muxwsgi.proxy.settings import ProxySettings
from tests.proxy.accounts import clean_process, frozen_heap, nothing_left, until  # noqa: F401
from tests.proxy.conftest import Lab
from tests.proxy.dialogue import OK, Road, Upstream, read_exactly

pytestmark = pytest.mark.usefixtures("nothing_left")

GREETING = b"220 mail.example ESMTP\r\n"

#: First bytes have longer than any test takes: what waits for that fails.
NEVER = 600.0


class Mail:
    """Greets, and says back in capitals what comes."""

    def __init__(self, lab: Lab, *, tls: bool = False, greeting: bytes = GREETING) -> None:
        self.connections = 0
        self.heard = b""
        self._greeting = greeting
        self.port = lab.serve_raw(self._serve, tls=tls)

    def _serve(self, sock: Any) -> None:
        self.connections += 1
        sock.sendall(self._greeting)
        while data := sock.recv(1000):
            self.heard += data
            sock.sendall(data.upper())


def inspecting(lab: Lab, **more: Any) -> tuple[Proxy, int]:
    proxy = lab.proxy(settings=ProxySettings(sniff_timeout=NEVER, **more), record=True)
    proxy.on_connect().mitm()
    return proxy, lab.serve_proxy(proxy)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "in TLS"])
def test_the_greeting_does_not_wait_for_the_time_that_first_bytes_have(lab: Lab, tls: bool) -> None:
    mail = Mail(lab, tls=tls)
    _, port = inspecting(lab)
    client = lab.tunnel(port, f"{'localhost' if tls else '127.0.0.1'}:{mail.port}")
    if tls:
        client = lab.wrap(client)
    assert read_exactly(client, len(GREETING)) == GREETING
    client.sendall(b"ehlo me\r\n")
    assert read_exactly(client, 9) == b"EHLO ME\r\n"
    assert mail.connections == 1


def test_a_look_behind_tls_is_asked_before_the_greeting_passes(lab: Lab) -> None:
    mail = Mail(lab)
    proxy = lab.proxy(settings=ProxySettings(sniff_timeout=NEVER))
    asked = []

    def look(connection: Any, ctx: Any) -> Any:
        asked.append(ctx.destination)
        return CONTINUE

    proxy.on_connect().mitm(after=look)
    client = lab.tunnel(lab.serve_proxy(proxy), f"127.0.0.1:{mail.port}")
    assert read_exactly(client, len(GREETING)) == GREETING
    assert len(asked) <= 1 and mail.connections == 1


@pytest.mark.parametrize("way", ["tunnel", "tls"])
def test_a_client_that_takes_its_time_is_served_with_what_was_dialled_meanwhile(lab: Lab, way: str) -> None:
    upstream = Upstream(lab, OK, tls=way == "tls")
    road = Road(lab, way, upstream.port, settings=ProxySettings(sniff_timeout=NEVER))
    client = road.client()  # without ALPN
    until(lambda: upstream.connections == 1 or way == "tls", "an early connection")
    gevent.sleep(0.2)
    for _ in range(2):
        assert road.ask(client).body == b"ok"
    assert upstream.connections == 1
    assert [asked.connection for asked in upstream.asked] == [1, 1]


def test_when_both_speak_at_the_same_moment_no_byte_is_lost(lab: Lab) -> None:
    mail = Mail(lab, greeting=b"SSH-2.0-there\r\n")
    _, port = inspecting(lab)
    for pause in (0, 0.01, 0.03, 0.04, 0.05, 0.1):
        client = lab.tunnel(port, f"127.0.0.1:{mail.port}")
        gevent.sleep(pause)
        client.sendall(b"SSH-2.0-here\r\n")
        assert read_exactly(client, 29) == b"SSH-2.0-there\r\nSSH-2.0-HERE\r\n"


def test_a_server_that_has_spoken_gets_no_request(lab: Lab) -> None:
    mail = Mail(lab)
    proxy, port = inspecting(lab)
    proxy.on_request().do(lambda request, ctx: Response("answered by the rule"))
    client = lab.tunnel(port, f"127.0.0.1:{mail.port}")
    assert read_exactly(client, len(GREETING)) == GREETING
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        while client.recv(1000):
            pass
    assert mail.heard == b""


def test_nothing_is_dialled_that_a_rule_forbids(lab: Lab) -> None:
    mail = Mail(lab)
    proxy, port = inspecting(lab)
    proxy.rules._connect = ()
    proxy.on_connect().reject()
    client = lab.connect(port)
    client.sendall(f"CONNECT 127.0.0.1:{mail.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert client.recv(12) == b"HTTP/1.1 403"
    gevent.sleep(0.1)
    assert mail.connections == 0


def test_a_silent_client_of_a_server_that_is_not_there_may_still_be_answered_by_a_rule(lab: Lab) -> None:
    proxy, port = inspecting(lab)
    proxy.on_request().do(lambda request, ctx: Response("here"))
    client = lab.tunnel(port, "127.0.0.1:1")
    gevent.sleep(0.2)
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_exactly(client, 15) == b"HTTP/1.1 200 OK"


def test_a_tunnel_in_which_nobody_speaks_ends_at_its_limit(lab: Lab) -> None:
    def wait(sock: Any) -> None:
        sock.recv(1)

    _, port = inspecting(lab, tunnel_idle_timeout=0.4)
    client = lab.tunnel(port, f"127.0.0.1:{lab.serve_raw(wait)}")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    until(lambda: lab.flows)
    assert lab.flows[0].error == "no byte in either direction for 0.4 s"


def test_a_client_that_does_not_trust_our_ca_is_a_line_that_says_what_to_do(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    upstream = Upstream(lab, OK, tls=True)
    _, port = inspecting(lab)
    caplog.set_level(logging.INFO, "muxwsgi.proxy")
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        lab.wrap(lab.tunnel(port, f"localhost:{upstream.port}"), trust=lab.certificate.certfile)
    until(lambda: "does not trust" in caplog.text)
    [line] = [record for record in caplog.records if "does not trust" in record.getMessage()]
    assert line.levelno == logging.INFO
    assert "localhost" in line.getMessage() and "--passthrough localhost" in line.getMessage() and "\n" not in line.getMessage()
