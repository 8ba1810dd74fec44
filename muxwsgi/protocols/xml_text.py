"""XML: a declaration, as XML-RPC over TCP begins."""

from muxwsgi.mux.matchers import prefix
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "xml"]

xml = prefix(b"<?xml")

PROTOCOL = Protocol(
    name="XML",
    defined_in="XML 1.0 section 2.8",
    speaks_first=Speaks.CLIENT,
    match=xml,
    begins=(b"<?xml version='1.0'?><methodCall>",),
    not_begins=(b"<!DOCTYPE html>", b"<html>", b"<stream:stream to='a'>"),
)
