"""JSON: an object, as JSON-RPC over TCP begins."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "json_object"]

json_object = regex(rb"\s*\{\s*\"[^\x00-\x1f]")

PROTOCOL = Protocol(
    name="JSON",
    defined_in="RFC 8259 section 4",
    speaks_first=Speaks.CLIENT,
    match=json_object,
    begins=(b'{"a": 1}', b' {\n  "a": 1}'),
    not_begins=(b"{a: 1}", b'CONNECT {"verbose":false}\r\n'),
)
