"""Error codes of HTTP/2 (RFC 9113 section 7), and the two scopes of an error (section 5.4)."""

__all__ = [
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "FLOW_CONTROL_ERROR",
    "FRAME_SIZE_ERROR",
    "HTTP_1_1_REQUIRED",
    "INTERNAL_ERROR",
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "REFUSED_STREAM",
    "STREAM_CLOSED",
    "ConnectionFault",
    "StreamFault",
]

NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
INTERNAL_ERROR = 0x2
FLOW_CONTROL_ERROR = 0x3
STREAM_CLOSED = 0x5
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8
COMPRESSION_ERROR = 0x9
CONNECT_ERROR = 0xA
ENHANCE_YOUR_CALM = 0xB
HTTP_1_1_REQUIRED = 0xD


class _Fault(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class ConnectionFault(_Fault):
    """The peer's error that ends the connection: GOAWAY with `code`, and `reason` as its debug data. `status` is that of HTTP/1.1 for the
    same, for logs."""

    def __init__(self, code: int, reason: str, status: int = 400) -> None:
        super().__init__(code, reason)
        self.status = status


class StreamFault(_Fault):
    """The peer's error that ends one stream: RST_STREAM with `code`."""
