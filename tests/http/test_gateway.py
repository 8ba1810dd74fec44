"""What an application that passes requests on needs of the engine beyond PEP 3333."""

from typing import Any

import gevent
import pytest

from muxwsgi.errors import PeerError, ResponseAborted
from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.settings import HTTPSettings
from muxwsgi.testing import connection_pair
from tests.http.conftest import Talk, statuses

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GET10 = b"GET / HTTP/1.0\r\n\r\n"


def test_the_fields_are_there_as_they_were_sent(talk: Talk) -> None:
    raw = b"GET /x HTTP/1.1\r\nhOsT: a\r\nX-B: 1\r\nx-a:  2 \r\nX-b: 3\r\n\r\n"
    heads: list[list[tuple[str, str]]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        heads.append(list(environ["muxwsgi.fields"]))
        start_response("204 No Content", [])
        return []

    talk(app, b"\r\n" + raw + raw)
    assert heads == [[("hOsT", "a"), ("X-B", "1"), ("x-a", "2"), ("X-b", "3")]] * 2


def test_interim_responses_precede_the_final_one(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["muxwsgi.response"].informational(103, "Early Hints", [("Link", "</a.css>; rel=preload"), ("Connection", "x")])
        start_response("200 OK", [])
        with pytest.raises(RuntimeError):
            gevent.sleep(0)
            start_response("200 OK", [])
        return [b"done"]

    answer = talk(app, GET)
    assert answer.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert statuses(talk(app, GET10)) == [200]


def test_early_hints_as_gunicorn_has_them(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        hint = environ["wsgi.early_hints"]
        assert hint([("Link", "</a.css>; rel=preload "), (b"link", b" </b.js>")]) is None
        hint([])
        with pytest.raises(ValueError):
            hint([("Link", "a\r\nb: c")])
        start_response("200 OK", [])(b"head")
        hint([("Link", "</late.css>")])
        return [b"done"]

    answer = talk(app, GET)
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nlink: </b.js>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"
    assert answer.startswith(hints + b"HTTP/1.1 200 OK\r\n") and statuses(answer) == [103, 103, 200]
    assert statuses(talk(app, GET10)) == [200]


@pytest.mark.parametrize(
    "call",
    [
        (100, "Continue", []),
        (101, "Switching Protocols", []),
        (200, "OK", []),
        (103, "a\r\nb", []),
        (103, "Hints", [("A", "b\r\nC: d")]),
        (103, "Hints", [("A B", "c")]),
    ],
)
def test_an_interim_response_that_cannot_be_is_the_applications_error(talk: Talk, call: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with pytest.raises(ValueError):
            environ["muxwsgi.response"].informational(*call)
        start_response("200 OK", [])
        return [b"x"]

    assert statuses(talk(app, GET)) == [200]


def test_trailers_follow_a_chunked_body_alone(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Trailer", "Digest")])
        environ["muxwsgi.response"].trailers = [("Digest", "abc"), ("X-Sum", "1")]
        return iter([b"one", b"two"])

    answer = talk(app, GET)
    assert b"\r\nTrailer: Digest\r\n" in answer
    assert answer.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\nDigest: abc\r\nX-Sum: 1\r\n\r\n")
    assert talk(app, GET10).endswith(b"\r\n\r\nonetwo")


@pytest.mark.parametrize("field", [("Content-Length", "3"), ("A", "b\r\nc"), ("Transfer-Encoding", "x"), ("a b", "c")])
def test_a_trailer_that_bears_on_framing_is_refused(talk: Talk, errors: Any, field: tuple[str, str]) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        environ["muxwsgi.response"].trailers = [field]
        return iter([b"one"])

    assert not talk(app, GET).endswith(b"0\r\n\r\n")
    assert errors()


def test_the_server_field_can_be_left_out(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        environ["muxwsgi.response"].omit_server()
        return [b"x"]

    answer = talk(app, GET)
    assert b"\r\nServer:" not in answer
    assert b"\r\nDate:" in answer


def test_a_response_that_is_aborted_is_cut_and_not_logged_as_an_error(talk: Talk, errors: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"half"
        raise ResponseAborted("the upstream broke off")

    answer = talk(app, GET, GET)
    assert statuses(answer) == [200]
    assert answer.endswith(b"4\r\nhalf\r\n")
    assert errors() == []


def test_a_response_that_is_aborted_before_its_head_is_a_bad_gateway(talk: Talk, errors: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "5")])
        raise ResponseAborted("the upstream broke off")

    assert statuses(talk(app, GET, GET)) == [502, 502]
    assert errors() == []


def test_a_peers_fault_after_a_takeover_is_no_error_of_the_application(talk: Talk, errors: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environ["muxwsgi.hijack"]()
        raise PeerError(400, "it speaks something else")

    assert talk(app, GET) == b""
    assert errors() == []


def test_a_body_can_be_passed_on_as_it_comes() -> None:
    parts: list[bytes] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        while part := environ["wsgi.input"].read1(4):
            parts.append(part)
        start_response("204 No Content", [])
        return []

    server, client = connection_pair()
    serving = gevent.spawn(HTTP1(app, HTTPSettings(linger=0.05)), server)
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab")
    with gevent.Timeout(5):
        while parts != [b"ab"]:
            gevent.sleep(0.01)
        client.sendall(b"cdefghi")
        assert client.recv().startswith(b"HTTP/1.1 204 ")
        assert parts == [b"ab", b"cdef", b"ghi"]
        client.close()
        serving.join()
        server.finish()
