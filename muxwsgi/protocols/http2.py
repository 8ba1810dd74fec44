"""HTTP/2 without ALPN: the client's connection preface (RFC 9113 section 3.4)."""

from muxwsgi.mux.matchers import named, prefix

__all__ = ["http2_preface"]

#: All 24 bytes of it: `PRI * HTTP/2.0\r\n` alone is a request line too.
http2_preface = named("http2_preface")(prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
