"""Files as responses: `--static`, X-Sendfile and X-Accel-Redirect, conditions and ranges."""

import gzip
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.http import parse_options_header
from werkzeug.test import Client, TestResponse
from werkzeug.test import TestResponse as Answer

from muxwsgi.errors import OperatorError
from muxwsgi.http.static.conditions import Validators, wanted_ranges
from muxwsgi.http.static.folder import StaticFiles, WithStaticFiles, content_type
from muxwsgi.http.static.handed_over import HandedOver
from tests import warm
from tests.system.server_process import ServerProcess

LARGE = bytes(range(256)) * 4000  # is sent by the kernel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is served, and beside it what is not."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file.txt").write_text("secret")
    inside = tmp_path / "public"
    (inside / "sub" / ".well-known").mkdir(parents=True)
    (inside / "a.txt").write_text("0123456789")
    (inside / "large.bin").write_bytes(LARGE)
    (inside / "sub" / "index.html").write_text("<p>index</p>")
    (inside / "sub" / ".well-known" / "token").write_text("token")
    (inside / ".env").write_text("secret")
    (inside / "empty").mkdir()
    (inside / "umläut.txt").write_text("ü")
    (inside / "link-in").symlink_to(inside / "a.txt")
    (inside / "link-out").symlink_to(tmp_path / "secret.txt")
    (inside / "link-folder").symlink_to(tmp_path / "outside")
    os.mkfifo(inside / "fifo")
    return inside


def answered(app: Any, path: str = "/a.txt", method: str = "GET", **fields: str) -> Answer:
    environ = {"SCRIPT_NAME": "", "PATH_INFO": path.encode().decode("latin-1"), "REQUEST_METHOD": method}
    environ |= {f"HTTP_{name.upper()}": value for name, value in fields.items()}
    return Client(app, TestResponse).open(environ_overrides=environ)


def test_a_file_is_sent_with_its_type_and_validators(folder: Path) -> None:
    answer = answered(StaticFiles(str(folder), max_age=60))
    assert (answer.status, answer.data) == ("200 OK", b"0123456789")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Content-Length"] == "10"
    assert answer.headers["Cache-Control"] == "public, max-age=60"
    assert answer.last_modified is not None
    assert answer.get_etag()[0]


def test_head_has_the_length_and_no_body(folder: Path) -> None:
    for path, size in (("/a.txt", 10), ("/large.bin", len(LARGE))):
        answer = answered(StaticFiles(str(folder)), path, "HEAD")
        assert (answer.status_code, answer.headers["Content-Length"], answer.data) == (200, str(size), b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/..",
        "//secret.txt",
        "/sub//index.html",
        "/./a.txt",
        "/.env",
        "/sub/.hidden/x",
        "/a.txt\0.html",
        "/..\\secret.txt",
        "/sub\\..\\..\\secret.txt",
        "/%2e%2e/secret.txt",
        "/link-out",
        "/link-folder/file.txt",
        "/link-folder",
        "/link-folder/",
        "/empty/",
        "/fifo",
        "/a.txt/",
        "/a.txt/x",
        "/" + "x" * 300,
        "/x" * 3000,
        "/missing",
    ],
)
def test_nothing_else_is_served(folder: Path, path: str) -> None:
    answer = answered(StaticFiles(str(folder)), path)
    assert answer.status_code == 404
    assert b"secret" not in answer.data


@pytest.mark.parametrize(
    ("path", "data"),
    [("/link-in", b"0123456789"), ("/umläut.txt", "ü".encode()), ("/sub/", b"<p>index</p>"), ("/sub/.well-known/token", b"token")],
)
def test_links_inside_names_beyond_ascii_and_folders_with_an_index_are_served(folder: Path, path: str, data: bytes) -> None:
    assert answered(StaticFiles(str(folder)), path).data == data


def test_a_folder_without_its_slash_is_redirected_to_this_host_only(folder: Path) -> None:
    app = WithStaticFiles(nothing, {"/static": StaticFiles(str(folder))})
    answer = Client(app).open("/static/sub?x=1")
    assert (answer.status_code, answer.headers["Location"]) == (308, "/static/sub/?x=1")
    (folder / "evil.example").mkdir()
    answer = answered(WithStaticFiles(nothing, {"": StaticFiles(str(folder))}), "/evil.example")
    assert answer.headers["Location"] == "/evil.example/"


def nothing(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("404 Not Found", [("X-App", environ["SCRIPT_NAME"] + environ["PATH_INFO"])])
    return [b""]


def test_the_longest_prefix_wins_and_the_rest_is_the_applications(folder: Path, tmp_path: Path) -> None:
    app = WithStaticFiles(nothing, {"/s": StaticFiles(str(folder)), "/s/out": StaticFiles(str(tmp_path / "outside"))})
    client = Client(app)
    assert client.open("/s/a.txt").data == b"0123456789"
    assert client.open("/s/out/file.txt").data == b"secret"
    assert client.open("/sa.txt").headers["X-App"] == "/sa.txt"


def test_other_methods_are_refused(folder: Path) -> None:
    answer = answered(StaticFiles(str(folder)), method="POST")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_folder_that_is_none_is_said_at_the_start(folder: Path) -> None:
    with pytest.raises(OperatorError, match="No such file"):
        StaticFiles(str(folder / "missing"))
    with pytest.raises(OperatorError, match="Not a directory"):
        StaticFiles(str(folder / "a.txt"))


def test_a_file_that_stands_beside_is_sent_to_those_who_accept_its_coding(folder: Path) -> None:
    script, packed, brotli = folder / "app.js", folder / "app.js.gz", folder / "app.js.br"
    script.write_text("script")
    packed.write_bytes(gzip.compress(b"script"))
    brotli.write_bytes(b"brotli")
    app = StaticFiles(str(folder))
    for accepted, coding in (
        ("gzip, br", "br"),
        ("gzip", "gzip"),
        ("br;q=0, gzip;q=0.5", "gzip"),
        ("deflate", None),
        ("", None),
        ("br;q=x", None),
        ("gzip;q=nan, br;q=1e0", None),
        ("br;level=1;q=0", None),
        ("br;q=0.5, gzip", "gzip"),
        ("gzip;q=0.5, identity", None),
        ("*", "br"),
    ):
        answer = answered(app, "/app.js", accept_encoding=accepted)
        assert answer.headers.get("Content-Encoding") == coding, accepted
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    tags = {answered(app, "/app.js", accept_encoding=coding).headers["ETag"] for coding in ("br", "gzip", "")}
    assert len(tags) == 3, "each representation has a tag of its own"
    now = script.stat().st_mtime
    os.utime(packed, (now - 10, now - 10))
    assert answered(app, "/app.js", accept_encoding="gzip").data == b"script", "an old one is not what was asked for"


def test_a_file_that_becomes_a_link_out_of_the_folder_is_refused_at_once(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.txt"
    outside.write_text("secret")
    app = StaticFiles(str(folder))
    (folder / "b.txt").write_text("b")
    assert answered(app, "/b.txt").data == answered(app, "/b.txt").data == b"b"
    (folder / "b.txt").unlink()
    (folder / "b.txt").symlink_to(outside)
    assert answered(app, "/b.txt").status_code == 404
    (folder / "b.txt").unlink()
    (folder / "b.txt").write_text("again")
    assert answered(app, "/b.txt").data == b"again"


def test_conditional_requests(folder: Path) -> None:
    app = StaticFiles(str(folder))
    first = answered(app)
    tag, date = first.headers["ETag"], first.headers["Last-Modified"]
    long_ago, later = "Mon, 01 Jan 1990 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
    for fields, status in (
        ({"if_none_match": tag}, 304),
        ({"if_none_match": f'"x", W/{tag}'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"x"', "if_modified_since": later}, 200),  # the tag alone counts
        ({"if_modified_since": date}, 304),
        ({"if_modified_since": later}, 304),
        ({"if_modified_since": long_ago}, 200),
        ({"if_modified_since": "yesterday"}, 200),
        ({"if_match": tag}, 200),
        ({"if_match": '"x"'}, 412),
        ({"if_match": f"W/{tag}"}, 412),
        ({"if_match": "*"}, 200),
        ({"if_unmodified_since": long_ago}, 412),
        ({"if_unmodified_since": later}, 200),
        ({"if_match": tag, "if_unmodified_since": long_ago}, 200),
    ):
        answer = answered(app, **fields)
        assert answer.status_code == status, fields
        if status == 304:
            assert answer.headers["ETag"] == tag
            assert answer.data == b""


@pytest.mark.parametrize(
    ("value", "status", "data", "place"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=8-", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-100", 206, b"56789", "bytes 5-9/10"),
        ("Bytes = 0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=5-4", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=a-b", 200, b"0123456789", None),
        ("bytes=0-1;2-3", 200, b"0123456789", None),
        ("items=0-1", 200, b"0123456789", None),
        ("bytes=" + "0-0," * 16 + "1-1", 200, b"0123456789", None),
        ("bytes=0-9,0-9", 200, b"0123456789", None),
    ],
)
def test_ranges(folder: Path, value: str, status: int, data: bytes | None, place: str | None) -> None:
    answer = answered(StaticFiles(str(folder)), range=value)
    assert (answer.status_code, answer.headers.get("Content-Range")) == (status, place)
    assert data is None or answer.data == data


def test_several_ranges_are_parts(folder: Path) -> None:
    answer = answered(StaticFiles(str(folder)), "/large.bin", range="bytes=0-3,1000-1999,-2")
    kind, options = parse_options_header(answer.headers["Content-Type"])
    assert (answer.status_code, kind) == (206, "multipart/byteranges")
    assert int(answer.headers["Content-Length"]) == len(answer.data)
    parts = answer.data.split(b"\r\n--" + options["boundary"].encode())
    bodies = [part.partition(b"\r\n\r\n")[2] for part in parts[1:-1]]
    assert bodies == [LARGE[:4], LARGE[1000:2000], LARGE[-2:]]
    assert b"Content-Range: bytes 1000-1999/1024000" in parts[2]


def test_if_range_sends_the_whole_if_the_file_has_changed(folder: Path) -> None:
    app = StaticFiles(str(folder))
    tag = answered(app).headers["ETag"]
    assert answered(app, range="bytes=0-3", if_range=tag).status_code == 206
    (folder / "a.txt").write_text("other")
    assert answered(app, range="bytes=0-3", if_range=tag).data == b"other"


@given(st.text(alphabet="bytes=0123456789-, ;", max_size=40), st.integers(0, 1000))
def test_any_range_field_means_bytes_of_the_file_or_nothing(value: str, size: int) -> None:
    found = wanted_ranges({"HTTP_RANGE": value, "REQUEST_METHOD": "GET"}, Validators('"x"', 0), size)
    for first, count in found or []:
        assert 0 <= first < size
        assert 0 < count <= size - first


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.json", "application/json; charset=utf-8"),
        ("a.svg", "image/svg+xml; charset=utf-8"),
        ("a.woff2", "font/woff2"),
        ("a.wasm", "application/wasm"),
        ("a.tar.gz", "application/gzip"),
        ("a.unknown", "application/octet-stream"),
        ("Makefile", "application/octet-stream"),
        ("data:text/html,a.png", "image/png"),  # an upload may have such a name
        ("http:a.html", "text/html; charset=utf-8"),
        ("/folder/data:text/html,a.txt", "text/plain; charset=utf-8"),
    ],
)
def test_types_by_name(name: str, kind: str) -> None:
    assert content_type(name) == kind


def test_a_descriptor_is_never_left_open(folder: Path) -> None:
    app = StaticFiles(str(folder))
    before = len(os.listdir("/proc/self/fd"))
    for path in ("/a.txt", "/large.bin", "/link-out", "/fifo", "/missing", "/empty"):
        for fields in (
            {},
            {"range": "bytes=0-1"},
            {"range": "bytes=0-1,5-6"},
            {"range": "bytes=99999999-"},
            {"if_match": '"x"'},
            {"if_none_match": "*"},
        ):
            with answered(app, path, **fields) as answer:
                _ = answer.data
    assert len(os.listdir("/proc/self/fd")) == before


# X-Sendfile and X-Accel-Redirect


def naming(name: str, value: str, *, status: str = "200 OK", lazily: bool = False) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        def body() -> Iterable[bytes]:
            start_response(status, [("Content-Type", "text/x-mine"), (name, value), ("Set-Cookie", "a=b"), ("Content-Length", "4")])
            yield b"none"

        result = body()
        return result if lazily else list(result)

    return app


@pytest.mark.parametrize("lazily", [False, True])
def test_an_application_names_the_file(folder: Path, lazily: bool) -> None:
    for app in (
        HandedOver(naming("X-Sendfile", str(folder / "a.txt"), lazily=lazily), [str(folder)], {}),
        HandedOver(naming("X-Accel-Redirect", "/protected/a.txt", lazily=lazily), [], {"/protected": str(folder)}),
    ):
        answer = answered(app, range="bytes=0-3")
        assert (answer.status_code, answer.data) == (206, b"0123")
        assert answer.headers["Content-Type"] == "text/x-mine"
        assert answer.headers["Set-Cookie"] == "a=b"
        assert "X-Sendfile" not in answer.headers
        assert "X-Accel-Redirect" not in answer.headers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Sendfile", "{}/../secret.txt"),
        ("X-Sendfile", "{}/link-out"),
        ("X-Sendfile", "{}"),
        ("X-Sendfile", "/etc/hostname"),
        ("X-Sendfile", "{}/%00"),
        ("X-Accel-Redirect", "/protected/../secret.txt"),
        ("X-Accel-Redirect", "/protected/%2e%2e/secret.txt"),
        ("X-Accel-Redirect", "/protected"),
        ("X-Accel-Redirect", "/elsewhere/a.txt"),
        ("X-Accel-Redirect", "/protected/link-folder/file.txt"),
    ],
)
def test_an_application_cannot_name_what_is_outside(folder: Path, name: str, value: str, caplog: pytest.LogCaptureFixture) -> None:
    answer = answered(HandedOver(naming(name, value.format(folder)), [str(folder)], {"/protected": str(folder)}))
    assert answer.status_code == 404
    assert b"secret" not in answer.data
    assert "is not a file below a folder" in caplog.text


def test_a_field_that_is_not_configured_and_an_error_pass_unchanged(folder: Path) -> None:
    answer = answered(HandedOver(naming("X-Sendfile", str(folder / "a.txt")), [], {"/p": str(folder)}))
    assert (answer.headers["X-Sendfile"], answer.data) == (str(folder / "a.txt"), b"none")
    answer = answered(HandedOver(naming("X-Sendfile", str(folder / "a.txt"), status="403 Forbidden"), [str(folder)], {}))
    assert (answer.status_code, answer.data) == (403, b"none")


# As an operator runs it


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest, folder: Path) -> Any:
    with ServerProcess(
        "tests.server.applications:wsgi", "--static", f"/static={folder}", "--static-max-age", "5", tls=request.param
    ) as running:
        yield running


def test_curl_resumes_a_download(server: ServerProcess, tmp_path: Path) -> None:
    url = f"{'https' if server.tls else 'http'}://127.0.0.1:{server.port}/static/large.bin"
    target = tmp_path / "part"
    target.write_bytes(LARGE[:100_000])
    subprocess.run(["curl", "-ksS", "-C", "-", "-o", str(target), url], check=True, timeout=30)
    assert target.read_bytes() == LARGE


def test_the_path_is_taken_as_it_was_sent(server: ServerProcess) -> None:
    for path, status in (
        ("/static/%2e%2e/secret.txt", 404),
        ("/static/..%2fsecret.txt", 404),
        ("/static/%2fetc/hostname", 404),
        ("/static/a%00.txt", 404),
        ("/static/uml%C3%A4ut.txt", 200),
        ("/static/a.txt?v=1", 200),
    ):
        with server.open() as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            head = received(sock)
            assert int(head.split()[1]) == status, path
            assert b"secret" not in head


def received(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


def test_a_wrong_folder_stops_the_start(tmp_path: Path) -> None:
    done = warm.run(
        [sys.executable, "-m", "muxwsgi", "run", "tests.server.applications:wsgi", "-b", "127.0.0.1:0", "--static", f"/s={tmp_path}/none"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "static: " in done.stderr
    assert "No such file" in done.stderr
