"""Request ids: where they come from, and where they are."""

import json
import logging
import re
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from muxwsgi.http.exchange import Exchange
from muxwsgi.http.request_id import KEY, RequestIds, current_id
from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

APP = "tests.server.request_id_app"

MADE = re.compile(r"[0-9a-f]{32}")


class Peer:
    client = ("192.0.2.1", 1)


def answered(given: str | None, *, trusted: bool = True, headers: Any = (), responds: bool = True) -> tuple[dict[str, Any], list[Any]]:
    """The environ that the application got, and the fields that were sent."""
    seen: dict[str, Any] = {}
    sent: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        start_response("200 OK", list(headers))
        return []

    environ: dict[str, Any] = {"muxwsgi.connection": Peer()}
    if given is not None:
        environ["HTTP_X_REQUEST_ID"] = given
    ids = RequestIds("X-Request-ID", trusts=lambda address: trusted and address == Peer.client, responds=responds)
    ids.around(app)(environ, lambda status, headers, exc_info=None: sent.extend(headers))
    assert current_id() == seen[KEY] == seen["HTTP_X_REQUEST_ID"]
    refused: dict[str, Any] = {}
    ids.forget(Exchange(refused, refused, "400 Bad Request", [], 0, 0.0))
    assert current_id() == seen[KEY], "a request was refused inside of this one"
    ids.forget(Exchange(environ, environ, "200 OK", [], 0, 0.0))
    assert current_id() == "-"
    return seen, sent


def test_a_trusted_peer_gives_the_id() -> None:
    seen, sent = answered("of-the:front/1")
    assert seen[KEY] == "of-the:front/1" and sent == [("X-Request-ID", "of-the:front/1")]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", 'quoted"', "a\nb", "\u00e9", "a,b"])
def test_what_is_no_id_is_replaced(given: str | None) -> None:
    assert MADE.fullmatch(answered(given)[0][KEY])


def test_a_peer_that_is_not_trusted_gives_nothing() -> None:
    assert MADE.fullmatch(answered("chosen", trusted=False)[0][KEY])
    assert answered(None)[0][KEY] != answered(None)[0][KEY]


def test_a_field_of_the_application_stays_and_the_response_has_none_unless_asked_for() -> None:
    assert answered(None, headers=[("x-request-id", "mine")])[1] == [("x-request-id", "mine")]
    assert answered(None, responds=False)[1] == []


def test_an_id_is_in_the_environ_in_all_logs_and_in_the_response_also_after_an_error(tmp_path: Path) -> None:
    access = tmp_path / "access"
    options = ["--forwarded-allow-ips", "none", "--request-id-header", "X-Request-ID", "--request-id-response", "--access-logfile", str(access), "--access-logformat", "json"]
    with ServerProcess(APP, *options) as server:
        with urllib.request.urlopen(f"http://{server.address}/", timeout=10) as response:
            first = response.headers["X-Request-ID"]
            assert MADE.fullmatch(first) and response.read().decode() == first
        server.wait_for_log(f"[INFO] [{first}] a line of the server")
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:  # the next request of a connection has another
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\n\r\nGET /fail HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            data = b""
            while block := client.recv(65536):
                data += block
        assert b"\r\nX-Request-ID: " in data and b"mine" not in data
        wait_for(lambda: len(access.read_text().splitlines()) == 3)
        ids = [json.loads(line)["request_id"] for line in access.read_text().splitlines()]
        assert ids[0] == first and len(set(ids)) == 3 and all(map(MADE.fullmatch, ids))
        server.wait_for_log(f"[ERROR] [{ids[2]}] application error in GET /fail")
        assert server.stop() == 0
        assert "[INFO] [-] stopped" in server.log


def test_a_front_that_is_trusted_gives_the_id(tmp_path: Path) -> None:
    with ServerProcess(APP, "--request-id-header=X-Request-ID", "--forwarded-allow-ips", "127.0.0.0/8") as server:
        request = urllib.request.Request(f"http://{server.address}/", headers={"X-Request-ID": "of-the-front"})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.read() == b"of-the-front"
        server.wait_for_log("[of-the-front] a line of the server")
        assert server.stop() == 0


def test_the_atom_has_the_id(tmp_path: Path) -> None:
    access = tmp_path / "access"
    with ServerProcess(APP, "--request-id-header=X-Trace", "--access-logfile", str(access), "--access-logformat", "%(I)s %({x-trace}i)s") as server:
        body = server.get("/")[1].decode()
        assert server.stop() == 0
    assert access.read_text() == f"{body} -\n", "the field of the request is logged as it was sent"


def test_without_the_option_there_are_no_ids(tmp_path: Path) -> None:
    access = tmp_path / "access"
    with ServerProcess(APP, "--access-logfile", str(access), "--access-logformat", "%(I)s") as server:
        assert server.get("/") == (200, b"none")
        assert server.stop() == 0
    assert access.read_text() == "-\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["--request-id-header", "X_Id"], "request_id_header: 'X_Id' is not the name"), (["--request-id-response"], "request_id_response: requests")],
)
def test_options_that_make_no_sense_are_one_line(options: list[str], expected: str) -> None:
    with pytest.raises(AssertionError, match=expected), ServerProcess(APP, *options):
        pass


def test_records_of_other_factories_keep_what_they_have() -> None:
    from muxwsgi.http.request_id import name_ids_in_records

    before = logging.getLogRecordFactory()
    try:
        name_ids_in_records()
        name_ids_in_records()
        record = logging.getLogger("a").makeRecord("a", 20, "f", 1, "m", (), None)
        assert record.request_id == "-" and record.getMessage() == "m"  # type: ignore[attr-defined]
    finally:
        logging.setLogRecordFactory(before)
