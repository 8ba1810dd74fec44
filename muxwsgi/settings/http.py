"""Limits and deadlines of HTTP."""

from typing import Literal

from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.setting import check, setting
from muxwsgi.settings.sections import HTTP

__all__ = ["BufferChunked", "HTTPSettings"]

#: Whose chunked requests are read before the application runs.
BufferChunked = Literal["always", "django", "never"]

#: Seconds until the head of an upstream's response has to be there, by default.
RESPONSE_HEAD_TIMEOUT = 120.0


@record(kw_only=True)
class HTTPSettings:
    """Limits and deadlines of the HTTP engine."""

    keep_alive: float = setting(
        75.0, "Seconds that a connection may rest between requests; 0 closes after each response.", section=HTTP, unit="SECONDS", at_least=0
    )
    request_head_timeout: float = setting(
        60.0, "Seconds that a request head may take, from its first byte to its last: 408.", section=HTTP, unit="SECONDS", above=0
    )
    body_min_rate: float = setting(
        500.0, "Bytes per second that a body must move, either way; 0 for no minimum.", section=HTTP, unit="RATE", at_least=0
    )
    body_rate_grace: float = setting(
        60.0, "Seconds that a body may stand still, and until the minimum rate counts.", section=HTTP, unit="SECONDS", above=0
    )
    limit_request_line: int = setting(8190, "The most bytes of a request line: 414 above.", section=HTTP, unit="BYTES", at_least=1)
    limit_request_fields: int = setting(100, "The most request fields: 431 above.", section=HTTP, unit="N", at_least=1)
    limit_request_field_size: int = setting(
        8190,
        "The most bytes of one request field: 431 above.",
        section=HTTP,
        unit="BYTES",
        flags=("--limit-request-field_size",),
        at_least=1,
    )
    limit_request_head: int = setting(65536, "The most bytes of a whole request head: 431 above.", section=HTTP, unit="BYTES", at_least=1)
    limit_request_body: int = setting(
        0, "The most bytes of a request body, 0 for no limit: 413 above.", section=HTTP, unit="BYTES", at_least=0
    )
    buffer_chunked: BufferChunked = setting(
        "django",
        "Read chunked request bodies before the application runs, which then sees a Content-Length: always, never, or if the "
        "application is Django, which ignores chunked bodies.",
        section=HTTP,
        choices=("always", "django", "never"),
    )
    limit_buffered_body: int = setting(
        1 << 30,
        "The most bytes of a body that is buffered so, 0 for no limit but --limit-request-body: 413 above.",
        section=HTTP,
        unit="BYTES",
        at_least=0,
    )
    linger: float = setting(2.0, "Seconds that a refused client has to read why before the connection is closed.", unit="SECONDS", above=0)
    server_header: str = setting("muxwsgi", "Value of the Server field; empty for none.", section=HTTP, unit="TEXT")

    def __post_init__(self) -> None:
        check(self)
        if not all(" " <= char <= "~" for char in self.server_header):
            raise OperatorError(f"server_header: {self.server_header!r} is not printable ASCII")
