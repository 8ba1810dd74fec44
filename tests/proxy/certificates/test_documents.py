"""docs/certificates.md: its code runs, and what it lists is what there is."""

import re
import socket
from pathlib import Path
from typing import Any

import gevent
from click.testing import CliRunner

from muxwsgi.cli.ca import ca
from muxwsgi.proxy.certificates.passthrough import CERTIFICATE_ALERTS, PassThrough
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.tls.client_context import ClientContext

PAGE = (Path(__file__).parents[3] / "docs" / "certificates.md").read_text()


def test_the_code_looks_into_tls(folder: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    near, far = socket.socketpair()
    tunnel, client = Connection.from_socket(near), Connection.from_socket(far)
    context = ClientContext(ca_file=str(folder / "ca.pem"), alpn=["http/1.1"])
    connecting = gevent.spawn(client.start_tls, context, server_hostname="a.example")
    inside = namespace["look_into"](namespace["leaf_context"](folder), tunnel, "a.example")
    outside = connecting.get(timeout=10)
    outside.sendall(b"hello")
    assert inside.recv(10) == b"hello" and inside.tls.alpn == "http/1.1"
    inside.finish()
    outside.finish()


def test_every_command_and_alert_is_listed() -> None:
    assert re.findall(r"^\| `muxwsgi ca (\w+)`", PAGE, re.M) == list(ca.commands)
    assert all(f"`{alert}`" in PAGE for alert in CERTIFICATE_ALERTS)
    for name in ca.commands:
        assert "--folder" in CliRunner().invoke(ca, [name, "--help"]).output


def test_the_patterns_are_patterns() -> None:
    patterns = [text.replace("\\|", "|") for cell in re.findall(r"^\| (`.*`) \| (?:that|every) host", PAGE, re.M) for text in re.findall(r"`(.*?)`", cell)]
    assert len(patterns) == 4
    listed = PassThrough(patterns)
    assert all(listed.covers(host) for host in ("bank.example", "192.0.2.7", "a.b.bank.example", "bank12.example"))
    assert not listed.covers("shop.example")
