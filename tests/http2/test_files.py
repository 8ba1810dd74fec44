"""Files over HTTP/2: `wsgi.file_wrapper` and static files are read into DATA frames, as the windows allow."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muxwsgi.http.file_wrapper import FileWrapper
from muxwsgi.http.static.folder import StaticFiles
from tests.http2.conftest import Dialogue
from tests.http2.frames import DATA, ENHANCE_YOUR_CALM, GET, GOAWAY, INTERNAL_ERROR, PREFACE, Frame, headers, reset, settings, window_update

Talk = Callable[..., Dialogue]

CONTENT = os.urandom(300_001)


def of_file(path: Path, length: int | None = None, **more: Any) -> Any:
    """An application that answers with a file."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [] if length is None else [("Content-Length", str(length))])
        file = path.open("rb")
        file.seek(more.get("at", 0))
        if "trailers" in more:
            environ["muxwsgi.response"].trailers = more["trailers"]
        return environ["wsgi.file_wrapper"](file)

    return app


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(CONTENT)
    return made


class Frames(Dialogue):
    """Keeps the DATA frames too."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self.data: list[Frame] = []
        super().__init__(*arguments, **more)

    def add(self, received: bytes) -> list[Frame]:
        frames = super().add(received)
        self.data += [each for each in frames if each.kind == DATA]
        return frames


@pytest.fixture
def not_iterated(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(wrapper: FileWrapper) -> bytes:
        raise AssertionError("the file was read in blocks")

    monkeypatch.setattr(FileWrapper, "__next__", fail)


@pytest.mark.parametrize(("most", "sizes"), [(16384, {16384}), (50_000, {50_000, 131_072 - 2 * 50_000}), (1 << 20, {65_536})])
def test_a_file_comes_in_frames_as_large_as_the_client_takes(path: Path, not_iterated: None, most: int, sizes: set[int]) -> None:
    dialogue = Frames(of_file(path))
    dialogue.say(PREFACE, settings((4, 1 << 24), (5, most)), window_update(0, 1 << 24), headers(1))
    response = dialogue.response()
    assert (response.body, response.field("content-length")) == (CONTENT, str(len(CONTENT)))
    assert {len(each.payload) for each in dialogue.data[:-1]} == sizes
    assert [each.ends for each in dialogue.data] == [False] * (len(dialogue.data) - 1) + [True]
    dialogue.leave()


def test_a_file_waits_for_the_windows(talk: Talk, path: Path, not_iterated: None) -> None:
    dialogue = talk(of_file(path)).open(headers(1))
    dialogue.wait(lambda: len(dialogue.head().body) == 65535)
    dialogue.say(window_update(1, 100_000))
    dialogue.say(window_update(0, 1000))
    dialogue.wait(lambda: len(dialogue.head().body) == 66535)
    dialogue.say(window_update(0, 1 << 20))
    dialogue.wait(lambda: len(dialogue.head().body) == 165_535)
    dialogue.say(window_update(1, 1 << 20))
    assert dialogue.response().body == CONTENT


def test_files_of_several_streams_do_not_mix(talk: Talk, tmp_path: Path, not_iterated: None) -> None:
    contents = [bytes([number]) * 400_000 for number in range(8)]

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        number = int(environ["QUERY_STRING"])
        (tmp_path / f"{number}").write_bytes(contents[number])
        return of_file(tmp_path / f"{number}")(environ, start_response)

    dialogue = talk(app).open()
    streams = {2 * number + 1: content for number, content in enumerate(contents)}
    dialogue.say(*[headers(stream, [*GET[:2], (":path", f"/?{stream // 2}"), GET[3]]) for stream in streams])
    dialogue.say(window_update(0, 1 << 24))
    for _ in range(8):
        dialogue.say(*[window_update(stream, 50_000) for stream in streams if not dialogue.streams.get(stream, dialogue.head(stream)).ended])
    for stream, content in streams.items():
        assert dialogue.response(stream).body == content


def test_a_file_that_is_shorter_than_its_length_ends_with_a_reset(talk: Talk, path: Path) -> None:
    dialogue = talk(of_file(path, length=len(CONTENT) + 1)).open(window_update(0, 1 << 20), settings((4, 1 << 20)), headers(1))
    response = dialogue.response()
    assert (response.body, response.ended, response.reset) == (CONTENT, False, INTERNAL_ERROR)


def test_a_file_that_shrinks_while_it_is_sent_ends_with_a_reset(talk: Talk, path: Path) -> None:
    dialogue = talk(of_file(path)).open(headers(1))
    dialogue.wait(lambda: len(dialogue.head().body) == 65535)
    os.truncate(path, 70_000)
    dialogue.say(window_update(0, 1 << 20), window_update(1, 1 << 20))
    response = dialogue.response()
    assert (response.body, response.ended, response.reset) == (CONTENT[:70_000], False, INTERNAL_ERROR)


def test_a_file_that_is_cancelled_is_closed_and_others_go_on(talk: Talk, path: Path) -> None:
    files = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        result = of_file(path)(environ, start_response)
        files.append(result.file)
        return result

    dialogue = talk(app).open(headers(1), headers(3))
    dialogue.wait(lambda: len(dialogue.head(1).body) + len(dialogue.head(3).body) == 65535)
    dialogue.say(reset(1), window_update(0, 1 << 20), window_update(3, 1 << 20))
    assert dialogue.response(3).body == CONTENT
    dialogue.wait(lambda: all(file.closed for file in files))


def test_a_client_that_takes_a_file_byte_by_byte_is_told_to_calm_down(talk: Talk, path: Path) -> None:
    dialogue = talk(of_file(path)).open(settings((4, 0)), headers(1))
    dialogue.head()
    for number in range(1, 2001):
        if dialogue.of(GOAWAY) or dialogue.closed:
            break
        dialogue.say(window_update(1, 1))
        dialogue.wait(lambda: len(dialogue.head().body) >= number or dialogue.of(GOAWAY) or dialogue.closed)  # noqa: B023
    assert dialogue.heard(GOAWAY)[-1].code == ENHANCE_YOUR_CALM


def test_a_file_from_its_place_with_trailers_and_a_range(talk: Talk, path: Path, not_iterated: None) -> None:
    dialogue = talk(of_file(path, at=299_000, trailers=[("X-Sum", "1")])).open(headers(1))
    response = dialogue.response()
    assert (response.body, response.field("x-sum")) == (CONTENT[299_000:], "1")
    dialogue = talk(StaticFiles(str(path.parent))).open(
        headers(1, [*GET[:2], (":path", "/file"), GET[3], ("range", "bytes=1000-50999")]),
    )
    response = dialogue.response()
    assert (response.status, response.body) == ("206", CONTENT[1000:51_000])
