"""TRACE and OPTIONS go as far as Max-Forwards lets them (RFC 9110 section 7.6.2)."""

from typing import Any

import pytest

from muxwsgi.proxy.exchange.max_forwards import one_less
from tests.proxy.conftest import Lab, read_response


def through(lab: Lab, request: str) -> tuple[list[str], bytes, bytes]:
    """What the upstream was told of Max-Forwards, and the response's head and body."""
    told: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        told.append(environ.get("HTTP_MAX_FORWARDS", ""))
        start_response("200 OK", [])
        return [b"upstream"]

    upstream = lab.serve(app)
    sock = lab.connect(lab.serve_proxy(lab.proxy(record=True)))
    sock.sendall(request.replace("UP", f"127.0.0.1:{upstream}").replace("\n", "\r\n").encode())
    head, body = read_response(sock)
    return told, head, body


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS"])
def test_each_hop_counts_one_down(lab: Lab, method: str) -> None:
    told, _, body = through(lab, f"{method} http://UP/x HTTP/1.1\nHost: a\nMax-Forwards: 3\n\n")
    assert told == ["2"] and body == b"upstream"
    assert lab.flows[-1].answered_by == "upstream"


def test_other_methods_leave_it_alone(lab: Lab) -> None:
    told, _, _ = through(lab, "GET http://UP/x HTTP/1.1\nHost: a\nMax-Forwards: 0\n\n")
    assert told == ["0"]


def test_a_trace_that_ends_here_shows_what_came_and_no_secrets(lab: Lab) -> None:
    told, head, body = through(lab, "TRACE http://UP/x HTTP/1.1\nHost: a\nX-Odd: 1\nCookie: secret\nMax-Forwards: 0\n\n")
    assert told == [] and head.startswith(b"HTTP/1.1 200 ") and b"message/http" in head
    assert body.startswith(b"TRACE http://127.0.0.1:") and b"X-Odd: 1\r\n" in body and b"secret" not in body
    assert lab.flows[-1].answered_by == "proxy"


def test_options_that_end_here_say_what_we_do(lab: Lab) -> None:
    told, head, _ = through(lab, "OPTIONS http://UP HTTP/1.1\nHost: a\nMax-Forwards: 0\n\n")
    assert told == [] and head.startswith(b"HTTP/1.1 204 ") and b"\r\nAllow: " in head


@pytest.mark.parametrize("value", ["x", "-1", "", "0"])
def test_what_is_no_count_stays(value: str) -> None:
    assert one_less("TRACE", [("Max-Forwards", value)]) == [("Max-Forwards", value)]
