"""XML, as XMPP begins."""

from muxwsgi.mux.matchers import prefix
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "xml"]

xml = prefix(b"<?xml", b"<stream:")

PROTOCOL = Protocol(
    name="XML",
    defined_in="XML 1.0 section 2.8, RFC 6120 section 4.2",
    speaks_first=Speaks.CLIENT,
    match=xml,
    alpn=("xmpp-client", "xmpp-server"),
    begins=(b"<?xml version='1.0'?><stream:stream to='a'>", b"<stream:stream to='a'>"),
    not_begins=(b"<!DOCTYPE html>", b"<html>"),
)
