"""Limits of HTTP/2, beside those of HTTP."""


from muxwsgi.record import record
from muxwsgi.setting import check, setting
from muxwsgi.settings.sections import HTTP

__all__ = ["HTTP2Settings"]


@record(kw_only=True)
class HTTP2Settings:
    """Whether HTTP/2 is served, and its limits."""

    http2: str = setting(
        "on",
        "Serve HTTP/2: in TLS to clients that offer it (ALPN), and on plain ports to clients that begin with it.",
        section=HTTP,
        choices=("on", "off"),
    )
    http2_max_concurrent_streams: int = setting(
        128,
        "Requests that one HTTP/2 connection may have under way. Clients wait with further ones, or they are refused.",
        section=HTTP,
        unit="N",
        at_least=1,
    )
    http2_initial_window_size: int = setting(
        65535,
        "Bytes of a request body that an HTTP/2 client may send before the application reads. It grows for applications that keep up.",
        section=HTTP,
        unit="BYTES",
        at_least=1024,
    )

    def __post_init__(self) -> None:
        check(self)
