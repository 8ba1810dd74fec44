"""Dialogues with the HTTP/2 handler, in memory: the test writes frames, and reads what comes back."""

import errno
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from muxwsgi.events import Events
from muxwsgi.http.h2.h2 import HTTP2
from muxwsgi.settings import HTTP2Settings, HTTPSettings
from muxwsgi.testing import connection_pair
from tests.http.conftest import errors  # noqa: F401  # a fixture
from tests.http2.frames import OPENING, Frame, Response, Responses

#: Seconds that a dialogue may take: a test that hangs fails.
PATIENCE = 20


class Dialogue(Responses):
    """A client, and the server that serves it.

    error   what the handler has raised, None before its end or if it has raised nothing
    """

    def __init__(self, app: Any, http: HTTPSettings | None = None, events: Events | None = None, **limits: Any) -> None:
        super().__init__()
        self.server, self.client = connection_pair()
        self.handler = HTTP2(app, http or HTTPSettings(linger=0.2), HTTP2Settings(**limits), events=events)
        self.error: BaseException | None = None
        self.closed = False
        self.serving = gevent.spawn(self._serve)
        self.reading = gevent.spawn(self._read)

    def _serve(self) -> None:
        try:
            self.handler(self.server)
        except BaseException as error:
            self.error = error
        finally:
            self.server.finish()

    def _read(self) -> None:
        try:
            while data := self.client.recv():
                self.add(data)
        except OSError as error:
            assert error.errno in (errno.ECONNRESET, errno.EBADF)
        self.closed = True

    def say(self, *frames: bytes) -> "Dialogue":
        self.client.sendall(b"".join(frames))
        return self

    def open(self, *frames: bytes) -> "Dialogue":
        return self.say(OPENING, *frames)

    def wait(self, condition: Callable[[], Any]) -> Any:
        with gevent.Timeout(PATIENCE):
            while not (value := condition()):
                gevent.sleep(0.001)
        return value

    def response(self, stream: int = 1) -> Response:
        """The response on `stream`, once it has ended or was reset."""
        self.wait(lambda: stream in self.streams and (self.streams[stream].ended or self.streams[stream].reset is not None))
        return self.streams[stream]

    def head(self, stream: int = 1) -> Response:
        """The response on `stream`, once its head has come."""
        self.wait(lambda: stream in self.streams and self.streams[stream].heads)
        return self.streams[stream]

    def heard(self, kind: int, count: int = 1) -> list[Frame]:
        """Control frames of one type, once there are `count`."""
        self.wait(lambda: len(self.of(kind)) >= count)
        return self.of(kind)

    def end(self) -> BaseException | None:
        """Wait until the server has closed, and return what its handler has raised."""
        with gevent.Timeout(PATIENCE):
            self.serving.join()
            self.reading.join()
        return self.error

    def leave(self) -> BaseException | None:
        """Close, and wait for the server."""
        self.client.finish()
        return self.end()


@pytest.fixture
def talk() -> Iterator[Callable[..., Dialogue]]:
    """Make dialogues, which are ended behind the test."""
    dialogues: list[Dialogue] = []

    def begin(app: Any, http: HTTPSettings | None = None, **more: Any) -> Dialogue:
        dialogues.append(Dialogue(app, http, **more))
        return dialogues[-1]

    yield begin
    for dialogue in dialogues:
        dialogue.client.finish()
        gevent.killall([dialogue.serving, dialogue.reading], timeout=PATIENCE)



