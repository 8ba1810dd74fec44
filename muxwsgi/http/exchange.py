"""`Exchange`, the record that the event `exchange` gives to subscribers."""

from collections.abc import Callable

from muxwsgi.http.environ import Environ

__all__ = ["Exchange", "OnExchange"]


class Exchange:
    """One request and what became of it.

    request     the environ as it was before the application was called: a shallow copy, so nothing that the application does changes it
    environ     the environ as the application left it; `request` itself where the application was not called
    status      as it was sent, such as "200 OK"; "" where none was: the connection was taken over, or the client left before
    headers     as the application gave them; empty for a refused request
    body_bytes  bytes of the response's body that the kernel took, without chunk framing; fewer than it has where the exchange was cut
    seconds     from the end of the request's head to the end of the response
    refused     why the engine answered instead of the application; None where it did not
    error       what ended the exchange before its time, one line: a peer that left or stood still, a response that the application did not
                complete. None if the response is complete, or the connection was taken over
    line        the request line as it was sent, latin-1; None where the request was understood: then it is in `request`
    """

    __slots__ = ("body_bytes", "environ", "error", "headers", "line", "refused", "request", "seconds", "status")

    def __init__(
        self,
        request: Environ,
        environ: Environ,
        status: str,
        headers: list[tuple[str, str]],
        body_bytes: int,
        seconds: float,
        refused: str | None = None,
        line: str | None = None,
        error: str | None = None,
    ) -> None:
        self.request = request
        self.environ = environ
        self.status = status
        self.headers = headers
        self.body_bytes = body_bytes
        self.seconds = seconds
        self.refused = refused
        self.line = line
        self.error = error

    @property
    def request_line(self) -> str:
        """The request line, latin-1, without its CRLF."""
        if self.line is not None:
            return self.line
        request = self.request
        return f"{request['REQUEST_METHOD']} {request['RAW_URI']} {request['SERVER_PROTOCOL']}"


OnExchange = Callable[[Exchange], None]
