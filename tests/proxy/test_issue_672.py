"""What goproxy's users ask for in its issue 672: take the tunnel, do TLS, look at the first decrypted message; HTTP goes to DoFunc, anything
else to the hijacker. Here it is one test, with TLS and without."""

from typing import Any

import pytest
from muxwsgi_resp import Options, resp

from muxwsgi.mux.hijack import hijacker_of
from muxwsgi.proxy.rules.message import Response
from muxwsgi.wire.connection import Connection
from tests.proxy.conftest import Lab, read_response


@pytest.mark.parametrize("tls", [True, False], ids=["in TLS", "plain"])
def test_three_tunnels_to_one_host_and_port_go_three_ways(lab: Lab, tls: bool) -> None:
    def unknown(sock: Any) -> None:
        while data := sock.recv(1000):
            sock.sendall(data.upper())

    upstream = lab.serve_raw(unknown, tls=tls)
    serve_redis = resp(Options())
    seen: list[tuple[bool, bytes]] = []
    destinations: list[Any] = []

    def redis(connection: Connection) -> None:
        destinations.append((connection.destination, connection.tunnel.user_data["who"]))
        serve_redis(connection)

    described = hijacker_of(resp)
    assert described is not None
    route = described.route()
    proxy = lab.proxy(hijackers=[type(route)("resp", route.match, redis)])

    @proxy.on_connect()
    def note(host: str, ctx: Any) -> None:
        ctx.user_data["who"] = "me"

    proxy.on_connect().mitm()

    @proxy.on_request()
    def do_func(request: Any, ctx: Any) -> Response:
        return Response(f"DoFunc: {request.url} for {ctx.user_data['who']}", 200, mimetype="text/plain")

    @proxy.on_chunk()
    def look(chunk: Any, ctx: Any) -> None:
        seen.append((chunk.from_client, chunk.data))

    port = lab.serve_proxy(proxy)
    destination = f"localhost:{upstream}"

    def tunnel() -> Any:
        sock = lab.tunnel(port, destination)
        return lab.wrap(sock) if tls else sock

    http, redis_client, other = tunnel(), tunnel(), tunnel()

    http.sendall(f"GET /page HTTP/1.1\r\nHost: {destination}\r\n\r\n".encode())
    head, body = read_response(http)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == f"DoFunc: {'https' if tls else 'http'}://{destination}/page for me".encode()

    redis_client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
    answer = b""
    while answer != b"+OK\r\n$1\r\nv\r\n":
        more = redis_client.recv(100)
        assert more, answer
        answer += more
    assert destinations == [(("localhost", upstream), "me")]

    other.sendall(b"\x00\x01 what is this?")
    assert other.recv(100) == b"\x00\x01 WHAT IS THIS?"
    assert seen == [(True, b"\x00\x01 what is this?"), (False, b"\x00\x01 WHAT IS THIS?")]
