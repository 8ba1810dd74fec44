"""WSGI middleware around the proxy, put there as one does with Flask, sees what passes: outside of tunnels and inside."""

from typing import Any

from tests.proxy.conftest import Lab, read_response


def test_middleware_sees_requests_outside_and_inside_of_tunnels(lab: Lab) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ.get("HTTP_X_SEEN", "unseen").encode()]

    plain, secure = lab.serve(app), lab.serve(app, tls=True)
    proxy = lab.proxy()
    proxy.on_connect().mitm()
    seen: list[tuple[str, str]] = []
    inner = proxy.wsgi_app

    def middleware(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append((environ["REQUEST_METHOD"], environ["RAW_URI"]))

        def started(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [*headers, ("X-Middleware", "was here")], *more)

        return inner(environ, started)

    proxy.wsgi_app = middleware
    port = lab.serve_proxy(proxy)

    sock = lab.connect(port)
    sock.sendall(f"GET http://127.0.0.1:{plain}/a HTTP/1.1\r\nHost: x\r\nX-Seen: 1\r\n\r\n".encode())
    head, body = read_response(sock)
    assert body == b"1" and b"\r\nX-Middleware: was here\r\n" in head

    inside = lab.wrap(lab.tunnel(port, f"localhost:{secure}"))
    inside.sendall(b"GET /b HTTP/1.1\r\nHost: localhost\r\nX-Seen: 2\r\n\r\n")
    head, body = read_response(inside)
    assert body == b"2" and b"\r\nX-Middleware: was here\r\n" in head
    assert seen == [("GET", f"http://127.0.0.1:{plain}/a"), ("CONNECT", f"localhost:{secure}"), ("GET", "/b")]


def test_a_proxy_that_another_one_passes_requests_to_follows_its_own_rules(lab: Lab) -> None:
    origin = lab.serve(lambda environ, start_response: (start_response("200 OK", []), [b"hello"])[1])
    outer, guests = lab.proxy(), lab.proxy()
    guests.on_connect().reject()
    outer.wsgi_app = guests.wsgi_app
    port = lab.serve_proxy(outer)
    sock = lab.connect(port)
    sock.sendall(f"CONNECT 127.0.0.1:{origin} HTTP/1.1\r\nHost: 127.0.0.1:{origin}\r\n\r\n".encode())
    head, _ = read_response(sock)
    assert head.startswith(b"HTTP/1.1 403 ")
