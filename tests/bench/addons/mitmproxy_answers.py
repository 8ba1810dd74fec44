"""mitmproxy answers every request by itself."""

from mitmproxy import http

BODY = b"Hello, World!"


def requestheaders(flow: http.HTTPFlow) -> None:
    flow.response = http.Response.make(200, BODY, {"Content-Type": "text/plain"})
