"""The environ of a request (PEP 3333). Made here is the part that all requests of a connection have. Each request gets a copy, to which
the version's reader of heads adds the request.

Beside PEP 3333's keys there are those that applications know from elsewhere: REMOTE_PORT and REQUEST_URI (CGI servers), RAW_URI (gunicorn),
`werkzeug.socket`, and under TLS the names of Apache's mod_ssl. Ours begin with `muxwsgi.`.
All values of keys that are not dotted are strings.
"""

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from muxwsgi.http.file_wrapper import FileWrapper

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection
    from muxwsgi.wire.proxy_header import ProxyHeader
    from muxwsgi.wire.tls.info import TLSInfo

__all__ = ["Environ", "ErrorStream", "StandardErrors", "WSGIApplication", "connection_environ", "environ_key", "has_chunks"]

Environ = dict[str, Any]

WSGIApplication = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class ErrorStream(Protocol):
    """What PEP 3333 wants of `wsgi.errors`."""

    def write(self, text: str, /) -> int: ...
    def writelines(self, lines: list[str], /) -> None: ...
    def flush(self) -> None: ...


class StandardErrors:
    """The default `wsgi.errors`: the standard error that the process has when something is written."""

    __slots__ = ()

    def _stream(self) -> TextIO:
        return sys.stderr

    def write(self, text: str) -> int:
        return self._stream().write(text)

    def writelines(self, lines: list[str]) -> None:
        self._stream().writelines(lines)

    def flush(self) -> None:
        self._stream().flush()


def environ_key(name: str) -> str:
    """The key of the field `name`; "" for a field that is left out of the environ.

    A name with "_" is left out, as in nginx: X_Y and X-Y would have the same key, and a client could send the one as if it were the other.
    """
    if "_" in name:
        return ""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


def has_chunks(environ: Environ) -> bool:
    """Whether the request has a body whose length only its end tells: in HTTP/1.1 a chunked one, in HTTP/2 one without Content-Length."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return True
    return environ.get("SERVER_PROTOCOL") == "HTTP/2.0" and "wsgi.input_terminated" in environ and "CONTENT_LENGTH" not in environ


def connection_environ(connection: "Connection", server_software: str, multiprocess: bool, errors: ErrorStream) -> Environ:
    """The part that all requests of `connection` share."""
    tls = connection.tls
    environ: Environ = {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https" if tls else "http",
        "wsgi.errors": errors,
        "wsgi.multithread": True,  # greenlets: another request may run whenever this one waits
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": server_software,
        "SCRIPT_NAME": "",
        "muxwsgi.connection": connection,
        # What each request fills in. It stands here as well because a dict that has to grow is built anew.
        "muxwsgi.fields": (),
        "REQUEST_METHOD": "",
        "RAW_URI": "",
        "REQUEST_URI": "",
        "PATH_INFO": "",
        "QUERY_STRING": "",
        "SERVER_PROTOCOL": "",
        "wsgi.input": None,
        "muxwsgi.hijack": None,
        "muxwsgi.response": None,
        "wsgi.early_hints": None,
        "werkzeug.socket": None,
    }
    server, client = connection.server, connection.client
    if isinstance(server, tuple):
        environ["SERVER_NAME"] = server[0]
        environ["SERVER_PORT"] = str(server[1])
    else:  # a unix socket has neither, and PEP 3333 allows no empty strings
        environ["SERVER_NAME"] = "localhost"
        environ["SERVER_PORT"] = "443" if tls else "80"
    if isinstance(client, tuple):
        environ["REMOTE_ADDR"] = client[0]
        environ["REMOTE_PORT"] = str(client[1])
    else:
        environ["REMOTE_ADDR"] = ""
    if connection.identity is not None:
        environ["REMOTE_USER"] = connection.identity
    header = connection.proxy_header
    if header is not None:
        environ.update(_proxied_environ(header, tls is None))
    if tls is not None:
        environ.update(_tls_environ(tls))
    return environ


def _proxied_environ(header: "ProxyHeader", ends_tls: bool) -> Environ:
    """What a PROXY header says beside the addresses. `ends_tls` is whether its TLS, if any, is that of the client's connection."""
    environ: Environ = {"muxwsgi.proxy_header": header}
    # As nginx names them, for access logs too.
    for name, value in (("ALPN", header.alpn), ("AUTHORITY", header.authority), ("UNIQUE_ID", header.unique_id)):
        if value is not None:
            environ[f"PROXY_PROTOCOL_TLV_{name}"] = value
    proxied = header.tls
    if proxied is not None and ends_tls:
        environ |= {
            "wsgi.url_scheme": "https",
            "HTTPS": "on",
            "SSL_PROTOCOL": proxied.version,
            "SSL_CIPHER": proxied.cipher,
            "SSL_TLS_SNI": header.authority or "",
            "SSL_CLIENT_VERIFY": "NONE" if not proxied.has_certificate else "SUCCESS" if proxied.verified else "GENEROUS",
        }
        if proxied.common_name is not None:
            environ["SSL_CLIENT_S_DN_CN"] = proxied.common_name
    return environ


def _tls_environ(tls: "TLSInfo") -> dict[str, str]:
    """The environment variables of Apache's mod_ssl that apply."""
    environ = {
        "HTTPS": "on",
        "SSL_PROTOCOL": tls.version,
        "SSL_CIPHER": tls.cipher,
        "SSL_CIPHER_USEKEYSIZE": str(tls.cipher_bits),
        "SSL_CIPHER_ALGKEYSIZE": str(tls.cipher_bits),
        "SSL_TLS_SNI": tls.sni or "",
        "SSL_SESSION_RESUMED": "Resumed" if tls.resumed else "Initial",
        "SSL_CLIENT_VERIFY": "NONE",
    }
    certificate = tls.peer_certificate
    if certificate is not None:
        from muxwsgi.http.client_certificate import certificate_environ

        environ |= certificate_environ(certificate, verified=tls.peer_verified)
    return environ

