"""Requests that differ as those of different visitors do: no head comes again, of which a server may remember the last."""

import hashlib
from collections.abc import Sequence

__all__ = ["NUMBER", "heads"]

#: A prime: requests are sent in turn over all connections, and each connection comes to see every one before it sees one again.
NUMBER = 1009


def heads(host: str, path: str, fields: Sequence[str], number: int = NUMBER) -> list[bytes]:
    """GET with `fields`, of which User-Agent and Cookie have another value each time, for another path below `path` and another query."""
    return [_head(host, path, fields, each) for each in range(number)]


def _head(host: str, path: str, fields: Sequence[str], each: int) -> bytes:
    token = hashlib.sha256(b"%d" % each).hexdigest()
    lines = [f"GET {path}articles/{token[:8]}?page={each}&from={token[8:16]} HTTP/1.1", f"Host: {host}"]
    for field in fields:
        name, _, value = field.partition(": ")
        if name == "Cookie":
            value = f"session={token[16:59]}; theme=dark"
        elif name == "User-Agent":
            value = value.replace("131.0.0.0", f"131.0.{6700 + each % 90}.{each}")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode()
