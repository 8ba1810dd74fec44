"""docs/events.md: its program logs decisions and counts statuses, and its table has all events."""

import inspect
import logging
import re
from typing import Any

import gevent
import gevent.socket
import pytest

from muxwsgi.events import Events
from tests.pages import ROOT
from tests.waiting import until

TEXT = (ROOT / "docs/events.md").read_text()


def test_the_program_of_the_page_logs_decisions_and_counts_statuses(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "decisions")
    (program,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
    for written, real in ((":8000", ":0"), ("server.serve_forever()", "server.start()")):
        assert program.count(written) == 1
        program = program.replace(written, real)
    names: dict[str, Any] = {}
    exec(program, names)
    server = names["server"]
    with gevent.Timeout(30):
        try:
            host, _, port = server.addresses[0].rpartition(":")
            with gevent.socket.create_connection((host, int(port)), timeout=20) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET bad HTTP/1.1\r\n\r\n")
                while client.recv(65536):
                    pass
            until(lambda: server.connections == 0)
        finally:
            server.stop(0)
    assert names["statuses"] == {"200": 1, "400": 1}
    (line,) = (record.getMessage() for record in caplog.records if record.name == "decisions")
    assert re.fullmatch(r"connection \d+: mux '127\.0\.0\.1:\d+': route 'http' said YES to \d+ bytes", line)


def test_the_table_has_every_event() -> None:
    names = list(inspect.signature(Events.subscribe).parameters)[1:]
    assert re.findall(r"^\| `(\w+)` \|", TEXT, re.M) == names
