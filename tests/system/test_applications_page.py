"""docs/applications.md: what a kept connection shares, and the way out of it."""

import re
from pathlib import Path

import pytest

from tests.system.server_process import ROOT, ServerProcess

APPLICATION = '''
import contextvars, threading

variable = contextvars.ContextVar("variable", default="nothing")
local = threading.local()


def application(environ, start_response):
    found = f"{variable.get()} {getattr(local, 'value', 'nothing')}"
    variable.set(environ["PATH_INFO"])
    local.value = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Length", str(len(found)))])
    return [found.encode()]
'''


def middleware() -> str:
    block = re.search(r"^```python\n(.*?)^```", (ROOT / "docs/applications.md").read_text(), re.M | re.S)
    assert block is not None
    return block[1][block[1].index("def in_own_context") :]


@pytest.mark.parametrize(("more", "second"), [("", "/first /first"), (middleware(), "nothing /first")], ids=["as it is", "in own context"])
def test_what_the_second_request_of_a_connection_finds_of_the_first(tmp_path: Path, more: str, second: str) -> None:
    (tmp_path / "page_app.py").write_text(APPLICATION + more)
    with ServerProcess("page_app", "--pythonpath", str(tmp_path)) as server, server.connect() as kept, server.connect() as other:
        answers = []
        for sock, path in ((kept, b"/first"), (kept, b"/second"), (other, b"/third")):
            sock.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
            answers.append(sock.recv(1000).partition(b"\r\n\r\n")[2].decode())
    assert answers == ["nothing nothing", second, "nothing nothing"]
