"""XMPP: the header of a stream, with or without an XML declaration."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "xmpp"]

xmpp = regex(rb"(?:<\?xml[^<>]+>\s*)?<stream:stream\s")

PROTOCOL = Protocol(
    name="XMPP",
    defined_in="RFC 6120 sections 4.2 and 4.7",
    speaks_first=Speaks.CLIENT,
    match=xmpp,
    refines=("XML",),
    alpn=("xmpp-client", "xmpp-server"),
    begins=(b"<?xml version='1.0'?><stream:stream to='a' xmlns='jabber:client'>", b"<stream:stream to='a'>"),
    not_begins=(b"<?xml version='1.0'?><methodCall>", b"<stream:features>", b"<13>1 2026-01-01T00:00:00Z a"),
)
