"""Trailers of upstreams: none of them makes a complete response an incomplete one."""

from typing import Any

import pytest

from tests.http2.frames import headers
from tests.proxy.conftest import Lab
from tests.proxy.test_http2 import Client, ask, intercepting

NAMES = ("Connection", "Keep-Alive", "Proxy-Connection", "Upgrade", "TE", "Date", "Server", "Host", "Set-Cookie", "Content-Type", "Trailer")


@pytest.mark.parametrize("client", ["HTTP/1.1", "HTTP/2"])
def test_trailers_that_a_message_may_not_have_are_left_out_and_the_others_pass(lab: Lab, client: str) -> None:
    def serve(sock: Any) -> None:
        name = NAMES[int(sock.recv(65536).split()[1][1:])]
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n")
        sock.sendall(name.encode() + b": x\r\nX-Ok: 1\r\n\r\n")

    upstream = lab.serve_raw(serve)
    _, port = intercepting(lab)
    if client == "HTTP/2":
        h2 = Client(lab.connect(port))
        for number, name in enumerate(NAMES):
            h2.say(headers(2 * number + 1, ask(f"/{number}", upstream, scheme="http")))
            answer = h2.answer(2 * number + 1)
            assert (answer.body, answer.heads[1:], answer.reset) == (b"ok", [[("x-ok", "1")]], None), name
        return
    for number, name in enumerate(NAMES):
        sock = lab.connect(port)
        sock.sendall(f"GET http://localhost:{upstream}/{number} HTTP/1.1\r\nHost: localhost:{upstream}\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while more := sock.recv(65536):
            received += more
        assert received.endswith(b"2\r\nok\r\n0\r\nX-Ok: 1\r\n\r\n"), (name, received)
