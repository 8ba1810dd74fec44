"""The fields of the opening handshake of WebSockets (RFC 6455 section 4). No I/O."""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "UPGRADING",
    "VERSION",
    "accept_of",
    "asks_for_websocket",
    "extensions",
    "is_key",
    "is_websocket",
    "subprotocols",
    "without_extensions",
]

#: Sec-WebSocket-Version of RFC 6455.
VERSION = "13"

#: Section 1.3.
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

#: `SERVER_PROTOCOL` of requests that may ask for an Upgrade. In HTTP/2 the environ of an extended CONNECT (RFC 8441) is that of an Upgrade.
UPGRADING = ("HTTP/1.1", "HTTP/2.0")

_EXTENSIONS = "sec-websocket-extensions"


def asks_for_websocket(environ: Mapping[str, str]) -> bool:
    """Whether the request of a WSGI environ asks for a WebSocket, of any version (section 4.2.1)."""
    if "HTTP_UPGRADE" not in environ or environ["HTTP_UPGRADE"].lower() != "websocket":
        return False
    options = [option.strip() for option in environ.get("HTTP_CONNECTION", "").lower().split(",")]
    return "upgrade" in options and environ["REQUEST_METHOD"] == "GET" and environ["SERVER_PROTOCOL"] in UPGRADING


def is_websocket(fields: Iterable[tuple[str, str]]) -> bool:
    """Whether the fields of a 101 response switch to WebSocket."""
    return any(name.lower() == "upgrade" and value.lower() == "websocket" for name, value in fields)


def is_key(key: str) -> bool:
    """Whether `key` is a Sec-WebSocket-Key: 16 bytes in base64 (section 4.1)."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def accept_of(key: str) -> str:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode("ascii"), usedforsecurity=False).digest()).decode("ascii")


def subprotocols(value: str) -> list[str]:
    """The names in a Sec-WebSocket-Protocol, in the client's order."""
    return [name for name in (each.strip() for each in value.split(",")) if name]


def extensions(fields: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """The elements of Sec-WebSocket-Extensions: the name of each extension, and its unparsed parameters (section 9.1)."""
    for element in ",".join(value for name, value in fields if name.lower() == _EXTENSIONS).split(","):
        name, *parameters = [part.strip() for part in element.split(";")]
        if name or parameters:
            yield name, parameters


def without_extensions(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields of a request without its offer of extensions, so that payloads are not compressed."""
    return [field for field in fields if field[0].lower() != _EXTENSIONS]
