"""docs/observability.md: its table is that of the code, its program works, and its queries name metrics that exist."""

import re
from typing import Any

import gevent
import gevent.socket

from muxwsgi.observe.metrics import METRICS, markdown
from tests.pages import ROOT

PAGE = (ROOT / "docs" / "observability.md").read_text()


def test_the_table_is_that_of_the_code() -> None:
    assert markdown() in PAGE, "print it with: python -c 'from muxwsgi.observe.metrics import markdown; print(markdown())'"


def test_all_metrics_that_the_page_names_exist() -> None:
    known = {metric.name for metric in METRICS} | {"muxwsgi_build_info"}
    for metric in METRICS:
        if metric.kind == "histogram":
            known |= {f"{metric.name}_{suffix}" for suffix in ("bucket", "count", "sum")}
    assert set(re.findall(r"\bmuxwsgi_\w+", PAGE)) <= known


def test_the_program_of_the_page_serves_its_metrics() -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    for written, real in ((":8000", ":0"), ("server.serve_forever()", "server.start()")):
        assert program.count(written) == 1
        program = program.replace(written, real)
    names: dict[str, Any] = {}
    exec(program, names)
    server = names["server"]
    with gevent.Timeout(30):
        try:
            host, _, port = server.addresses[0].rpartition(":")
            answer = b""
            with gevent.socket.create_connection((host, int(port)), timeout=20) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                while data := client.recv(65536):
                    answer += data
        finally:
            server.stop(0)
    assert b'muxwsgi_http_requests_total{method="GET",status="200"} 1.0' in answer
    assert b"text/plain; version=" in answer
