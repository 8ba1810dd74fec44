"""Strict-Transport-Security and Server-Timing: what is added to responses, and for whom."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest

import muxwsgi
from muxwsgi.cli.configured import server_settings
from muxwsgi.cli.options import collect
from muxwsgi.errors import OperatorError
from muxwsgi.http.added_fields import with_added_fields
from muxwsgi.networks import LOOPBACK
from muxwsgi.proxy import Proxy
from muxwsgi.settings import CertificateFiles, HTTPSettings, ResponseSettings, ServerSettings, TrustSettings
from muxwsgi.wire.peer import TrustedPeers

TIMING = re.compile(r"app;dur=(\d+\.\d)(?:, queue;dur=(\d+\.\d))?")


def application(environ: dict[str, Any], start_response: Any) -> Any:
    if environ["PATH_INFO"] == "/slow":
        gevent.sleep(0.02)
    if environ["PATH_INFO"] == "/fail":
        raise LookupError("lost")
    own = [("strict-transport-security", "max-age=1"), ("Server-Timing", "db;dur=1")] if environ["PATH_INFO"] == "/own" else []
    start_response("404 Not Found", own)
    return [b"none"]


Get = Callable[..., dict[str, list[str]]]


@pytest.fixture
def serve() -> Iterator[Callable[..., Get]]:
    """A server with these settings. Returns a function that requests a path and returns the fields of the response."""
    with ExitStack() as stack, gevent.Timeout(30):

        def run(responses: ResponseSettings, *, certificate: CertificateFiles | None = None, trust: TrustSettings | None = None) -> Get:
            bind = "127.0.0.1:0" + (f",certfile={certificate.certfile},keyfile={certificate.keyfile}" if certificate else "")
            settings = ServerSettings(responses=responses, http=HTTPSettings(linger=0.1), trust=trust or TrustSettings())
            server = muxwsgi.Server(application, [bind], settings=settings)
            server.start()
            stack.callback(server.stop, 0)
            host, _, port = server.addresses[0].rpartition(":")

            def get(path: str, *lines: str) -> dict[str, list[str]]:
                sock = gevent.socket.create_connection((host.removeprefix("https://"), int(port)), timeout=20)
                if certificate is not None:
                    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
                    context.load_verify_locations(certificate.certfile)
                    sock = context.wrap_socket(sock, server_hostname="localhost")
                with sock:
                    sock.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""]).encode())
                    answer = b""
                    while data := sock.recv(65536):
                        answer += data
                fields: dict[str, list[str]] = {}
                for line in answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]:
                    name, _, value = line.partition(": ")
                    fields.setdefault(name.lower(), []).append(value)
                return fields

            return get

        yield run


def test_hsts_is_sent_over_https_alone(serve: Callable[..., Get], make_certificate: Callable[[], CertificateFiles]) -> None:
    settings = ResponseSettings(hsts="max-age=31536000;includesubdomains; Preload")
    secure = serve(settings, certificate=make_certificate())
    assert secure("/")["strict-transport-security"] == ["max-age=31536000; includeSubDomains; preload"]
    assert secure("/own")["strict-transport-security"] == ["max-age=1"]
    plain = serve(settings)
    assert "strict-transport-security" not in plain("/")
    assert "strict-transport-security" in plain("/", "X-Forwarded-Proto: https"), "the proxy in front has TLS"
    untrusting = serve(settings, trust=TrustSettings(forwarded_allow_ips="none"))
    assert "strict-transport-security" not in untrusting("/", "X-Forwarded-Proto: https")
    assert "server-timing" not in secure("/")


def test_server_timing_has_the_applications_time_and_the_time_before(serve: Callable[..., Get]) -> None:
    get = serve(ResponseSettings(server_timing=True))
    (value,) = get("/slow")["server-timing"]
    match = TIMING.fullmatch(value)
    assert match is not None and 20 <= float(match[1]) < 20_000 and match[2] is None
    assert get("/own")["server-timing"][0] == "db;dur=1" and TIMING.fullmatch(get("/own")["server-timing"][1])
    assert "strict-transport-security" not in get("/", "X-Forwarded-Proto: https")
    now = time.time() - 5
    for said in (f"t={now:.3f}", f"{now:.6f}", f"t={int(now * 1e3)}", f"{int(now * 1e6)}"):
        match = TIMING.fullmatch(get("/", f"X-Request-Start: {said}")["server-timing"][0])
        assert match is not None and 4_900 < float(match[2]) < 30_000, said
    for said in ("", "t=", "yesterday", "t=-5", f"t={now - 7200:.3f}", f"t={now + 7200:.3f}", "t=1e9", "9" * 30):
        assert TIMING.fullmatch(get("/", f"X-Request-Start: {said}")["server-timing"][0])[2] is None, said  # type: ignore[index]
    ahead = TIMING.fullmatch(get("/", f"X-Request-Start: t={time.time() + 60:.3f}")["server-timing"][0])
    assert ahead is not None and ahead[2] == "0.0", "the clock of the proxy is ahead"
    untrusting = serve(ResponseSettings(server_timing=True), trust=TrustSettings(forwarded_allow_ips="none"))
    match = TIMING.fullmatch(untrusting("/", f"X-Request-Start: t={now:.3f}")["server-timing"][0])
    assert match is not None and match[2] is None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("includeSubDomains", "max-age=SECONDS is missing"),
        ("max-age=1; max-age=2", "max-age is given twice"),
        ("max-age=1; includeSubDomains; includesubdomains", "includeSubDomains is given twice"),
        ("max-age=-1", "'max-age=-1' is not"),
        ("max-age=1;", "'' is not"),
        ("max-age=1; preload", "preload needs"),
        ("max-age=31536000; preload", "preload needs"),
        ("31536000", "'31536000' is not"),
        ("max-age=1\r\nSet-Cookie: a", "is not max-age"),
    ],
)
def test_directives_that_are_wrong_are_one_line(value: str, problem: str) -> None:
    with pytest.raises(OperatorError, match=re.escape(problem)):
        ResponseSettings(hsts=value)


@pytest.mark.parametrize("value", ["max-age=0", 'max-age="5"', "MAX-AGE = 5 ; includeSubDomains"])
def test_directives_are_read_as_rfc_6797_has_them(value: str) -> None:
    assert ResponseSettings(hsts=value).strict_transport_security.startswith("max-age=")


def test_where_they_make_no_sense_it_is_one_line() -> None:
    values = collect({"tls_dev": True, "hsts": "max-age=5"}, None, {})
    with pytest.raises(OperatorError, match="hsts: browsers would not forget"):
        server_settings(values)
    with pytest.raises(OperatorError, match="a proxy passes responses on"):
        muxwsgi.Server(Proxy(), ["127.0.0.1:0"], settings=ServerSettings(responses=ResponseSettings(server_timing=True)))


def test_the_time_is_that_of_the_applications_call_and_of_the_one_that_replaces_it() -> None:
    sent: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        time.sleep(0.02)
        start_response("200 OK", [])
        start_response("500 Oh", [], (None, None, None))
        return []

    environ = {"wsgi.url_scheme": "http"}
    with_added_fields(app, ResponseSettings(server_timing=True), TrustedPeers(LOOPBACK))(environ, lambda status, fields, exc_info: sent.append(fields[0][1]))
    first, again, error = (float(value.removeprefix("app;dur=")) for value in sent)
    assert first == again and error >= first + 19


def test_without_them_the_application_is_not_wrapped() -> None:
    assert with_added_fields(application, ResponseSettings(), TrustedPeers(LOOPBACK)) is application
