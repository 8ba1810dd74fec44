"""Request buffering: chunked bodies for applications that know of none, among them Django."""

import contextlib
import errno
import hashlib
import logging
import os
import resource
import socket
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from muxwsgi.http import buffering, spool
from muxwsgi.http.buffering import RequestBuffering, with_buffering
from tests.http.conftest import Talk, hello
from tests.system.server_process import ServerProcess, read_until_closed

APP = "tests.http.django_echo"
#: The machine may be so loaded that a client takes long between connecting and its first byte.
PATIENT = "--sniff-timeout=60"

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def pieces(*data: bytes) -> Iterator[bytes]:
    """requests sends what is no sequence in chunks."""
    yield from data


def posted(server: ServerProcess, body: Iterable[bytes], path: str = "/", **more: Any) -> dict[str, Any]:
    answer = requests.post(f"http://127.0.0.1:{server.port}{path}", data=body, timeout=60, **more)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.mark.parametrize("app", ["application", "wrapped"])
def test_django_gets_chunked_uploads_whole(app: str) -> None:
    with ServerProcess(f"{APP}:{app}", PATIENT) as server:
        before = posted(server, b"")["spooled"]
        for size in (0, 5, buffering.IN_MEMORY, buffering.IN_MEMORY + 1, 20_000_000):
            body = os.urandom(size)
            told = posted(server, pieces(body[: size // 2], body[size // 2 :]))
            assert (told["bytes"], told["sha256"]) == (size, hashlib.sha256(body).hexdigest())
            assert (told["length"], told["coding"]) == (str(size), None)
            assert told["spooled"] == before + (size > buffering.IN_MEMORY)
            assert posted(server, b"")["spooled"] == before  # the file went with its exchange


def test_djangos_forms_get_files_that_came_in_chunks() -> None:
    body, kind = requests.models.RequestEncodingMixin._encode_files({"f": ("name", b"x" * 3_000_000)}, None)  # type: ignore[attr-defined]
    with ServerProcess(APP, PATIENT) as server:
        assert posted(server, pieces(body), headers={"Content-Type": kind})["files"] == {"f": 3_000_000}


def test_a_mounted_django_is_buffered_and_its_neighbour_streams() -> None:
    with ServerProcess(f"{APP}:streaming", f"--mount=/django={APP}:wrapped", PATIENT) as server:
        assert posted(server, pieces(b"abc"), "/django")["bytes"] == 3
        with server.connect() as sock:
            sock.sendall(HEAD + b"3\r\nabc\r\n")
            answer = b""
            while not answer.endswith(b"3\r\nABC\r\n"):  # before the body has ended
                answer += sock.recv(1000)
            assert b"X-Transfer-Encoding: chunked" in answer


def test_never_and_always_are_what_they_say() -> None:
    with ServerProcess(APP, "--buffer-chunked=never", PATIENT) as server:
        assert posted(server, pieces(b"abc"))["bytes"] == 0
    with ServerProcess(f"{APP}:streaming", "--buffer-chunked=always", PATIENT) as server, server.connect() as sock:
        sock.sendall(HEAD + b"3\r\nabc\r\n0\r\n\r\n")
        assert b"X-Transfer-Encoding: none" in sock.recv(1000)


def test_trailers_are_known_and_100_is_said() -> None:
    with ServerProcess(APP, PATIENT) as server, server.connect() as sock:
        sock.sendall(HEAD[:-2] + b"Expect: 100-continue\r\n\r\n")
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"3\r\nabc\r\n0\r\nX-Sum: 5\r\n\r\n")
        assert b'"trailers": {"X-Sum": "5"}' in sock.recv(1000)


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"3\r\nabczz\r\n", 400), (b"3\r\nab", 400), (b"40\r\n" + b"x" * 64 + b"\r\n0\r\n\r\n", 413), (b"8\r\nx", 408)],
)
def test_what_is_refused_of_other_bodies_is_refused_before_django_sees_it(sent: bytes, status: int) -> None:
    flags = ["--limit-buffered-body=50", "--body-min-rate=1000", "--body-rate-grace=1", PATIENT]
    with ServerProcess(APP, *flags) as server, server.connect() as sock:
        sock.sendall(HEAD + sent)
        if status == 400:
            sock.shutdown(socket.SHUT_WR)
        assert read_until_closed(sock).startswith(b"HTTP/1.1 %d " % status)
        assert server.tracebacks() == []


def test_a_full_disk_is_507_and_the_next_request_is_served(tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # a write beyond it fails; Python ignores SIGXFSZ

    with ServerProcess(APP, PATIENT, preexec=small_files) as server:
        answer = requests.post(f"http://127.0.0.1:{server.port}/", data=pieces(*[bytes(100_000)] * 50), timeout=60)
        assert answer.status_code == 507
        server.wait_for_log("cannot be buffered in")
        assert server.tracebacks() == []
        assert posted(server, pieces(b"abc"))["bytes"] == 3


def test_a_file_that_cannot_be_opened_for_want_of_descriptors_is_507() -> None:
    """The folder for it is looked for then as well, by opening files."""

    def few_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    with ServerProcess(APP, PATIENT, preexec=few_descriptors) as server, server.connect() as sock, contextlib.ExitStack() as crowd:
        sock.sendall(HEAD + b"3\r\nabc\r\n0\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
        for _ in range(60):
            crowd.enter_context(server.connect())
        server.wait_for_log("cannot accept connections for now")
        sock.sendall(HEAD + b"100000\r\n" + bytes(1 << 20) + b"\r\n0\r\n\r\n")
        answer = b""
        while b"HTTP/1.1 507 " not in answer:  # the end of the first answer may come before it
            answer += (received := sock.recv(1000))
            assert received, answer
        server.wait_for_log("cannot be buffered in")
        assert server.tracebacks() == []


# In memory


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    logger = logging.getLogger("muxwsgi")
    propagate, logger.propagate = logger.propagate, True
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    logger.propagate = propagate


def mirror(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))]


def test_every_way_to_lack_room_is_507(talk: Talk, monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]) -> None:
    class Full(spool.Spool):
        failing = ""

        def fail(self, name: str, *arguments: Any) -> Any:
            if self.failing == name:
                raise OSError(errno.ENOSPC, "No space left on device")
            return getattr(super(), name)(*arguments)

        def write(self, *arguments: Any) -> Any:
            return self.fail("write", *arguments)

        def seek(self, *arguments: Any) -> Any:
            return self.fail("seek", *arguments)

    monkeypatch.setattr(spool, "Spool", Full)
    for Full.failing in ("write", "seek"):
        answer = talk(RequestBuffering(mirror, 0), HEAD + b"3\r\nabc\r\n0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 507 ")
    assert len(errors()) == 2 and "No space left on device" in errors()[0]


def test_the_file_is_closed_whatever_the_application_does(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Kept(spool.Spool):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            made.append(self)

    def fails(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise LookupError

    def fails_late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield environ["wsgi.input"].read()
        raise LookupError

    monkeypatch.setattr(spool, "Spool", Kept)
    monkeypatch.setattr(buffering, "IN_MEMORY", 1)
    for app in (mirror, fails, fails_late):
        talk(RequestBuffering(app, 0), HEAD + b"3\r\nabc\r\n0\r\n\r\n")
    talk(RequestBuffering(mirror, 0), HEAD + b"3\r\nabc\r\n")  # and the client goes away
    assert len(made) == 4 and all(each.closed for each in made)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8))
def test_a_body_is_the_same_however_it_was_cut_into_chunks(chunks: list[bytes]) -> None:
    talk: Talk = _talk()
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    answer = talk(RequestBuffering(mirror, 0), HEAD + sent)
    assert answer.partition(b"\r\n\r\n")[2] == b"".join(chunks)


def _talk() -> Talk:
    from tests.http import conftest

    fixture: Any = conftest.talk
    made: Talk = fixture.__wrapped__()
    return made


# Which applications


def test_django_is_found_where_attributes_lead_to_it() -> None:
    from tests.http.django_echo import application, streaming, wrapped

    def found(app: Any) -> bool:
        return isinstance(with_buffering(app, "django", 0), RequestBuffering)

    assert found(application) and found(wrapped) and found(ProxyFix(DispatcherMiddleware(hello, {"/x": application})))
    assert not found(streaming) and not found(ProxyFix(hello)) and not found(partial(hello))
    dispatcher = DispatcherMiddleware(hello, {"/x": application, "/y": hello})
    again: Any = with_buffering(dispatcher, "django", 0)
    assert isinstance(again.mounts["/x"], RequestBuffering) and again.app is hello and again.mounts["/y"] is hello
    assert dispatcher.mounts["/x"] is application
    assert with_buffering(application, "never", 0) is application


def test_applications_that_refer_to_themselves_end_the_search() -> None:
    class Circle:
        def __init__(self) -> None:
            self.app = self
            self.application = lambda environ, start_response: self

        @property
        def wsgi_app(self) -> Any:
            raise RuntimeError("not yet")

        def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
            return hello(environ, start_response)

    circle, other = Circle(), Circle()
    circle.app, other.app = other, circle
    assert with_buffering(circle, "django", 0) is circle
