"""DNS over TLS: a ClientHello that offers it. What comes inside is DNS over TCP."""

from muxwsgi.protocols import Protocol, Speaks
from muxwsgi.protocols.tls import alpn_is

__all__ = ["PROTOCOL", "dot"]

dot = alpn_is("dot")


def _hello(protocol: bytes) -> bytes:
    """A small ClientHello that offers `protocol`."""
    offered = len(protocol).to_bytes(1, "big") + protocol
    names = len(offered).to_bytes(2, "big") + offered
    extensions = b"\0\x10" + len(names).to_bytes(2, "big") + names
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(extensions).to_bytes(2, "big") + extensions
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(message).to_bytes(2, "big") + message


PROTOCOL = Protocol(
    name="DNS over TLS",
    defined_in="RFC 7858 section 3.1",
    speaks_first=Speaks.CLIENT,
    match=dot,
    refines=("TLS",),
    alpn=("dot",),
    begins=(_hello(b"dot"),),
    not_begins=(_hello(b"h2"), _hello(b"dots")),
)
