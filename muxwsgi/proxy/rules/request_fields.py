"""Reads the fields of a request from an environ, and writes them to one."""

from typing import Any

from werkzeug.datastructures import EnvironHeaders, Headers

from muxwsgi.http.environ import environ_key

__all__ = ["drop_fields_for_the_proxy", "put_fields", "received_fields"]

_FOR_THE_PROXY = ("HTTP_PROXY_AUTHORIZATION", "HTTP_PROXY_CONNECTION")


def received_fields(environ: dict[str, Any], authority: str, *, absolute: bool) -> list[tuple[str, str]]:
    """The fields in the client's order and spelling, of a request to `authority`. `absolute`: whether its target is in absolute form."""
    fields: list[tuple[str, str]]
    sent = environ.get("muxwsgi.fields")
    fields = list(EnvironHeaders(environ) if sent is None else sent)  # another server has no such key
    if absolute:
        # The target's authority replaces Host (RFC 9112 section 3.2.2).
        fields = [(name, authority if name.lower() == "host" else value) for name, value in fields]
    if "HTTP_HOST" not in environ and authority:
        fields.insert(0, ("Host", authority))  # HTTP/1.0
    return fields


def put_fields(environ: dict[str, Any], headers: Headers) -> None:
    """Replace the request's fields in `environ` with `headers` (PEP 3333)."""
    for key in [key for key in environ if key.startswith("HTTP_")]:
        del environ[key]
    environ.pop("CONTENT_TYPE", None)
    environ.pop("CONTENT_LENGTH", None)
    for name, value in headers:
        key = environ_key(name)
        if not key:
            continue
        if key in environ:
            value = environ[key] + ("; " if key == "HTTP_COOKIE" else ", ") + value
        environ[key] = value
    if "muxwsgi.fields" in environ:
        environ["muxwsgi.fields"] = list(headers)


def drop_fields_for_the_proxy(environ: dict[str, Any]) -> None:
    """Remove what the client sent to this proxy alone."""
    sent = [key for key in _FOR_THE_PROXY if environ.pop(key, None) is not None]
    if sent and "muxwsgi.fields" in environ:
        environ["muxwsgi.fields"] = [pair for pair in environ["muxwsgi.fields"] if environ_key(pair[0]) not in sent]
