"""Binds as an operator writes them."""

import re

from muxwsgi.errors import OperatorError
from muxwsgi.settings import BindSettings, CertificateFiles, Transparent

__all__ = ["parse_bind"]


def parse_bind(text: str, default: BindSettings | None = None) -> BindSettings:
    """`HOST:PORT`, `:PORT`, `[ADDRESS]:PORT`, `unix:PATH` or `fd://N`, followed by options of this bind after commas.

    The options are `tls=off|required|optional`, `certfile=FILE`, `keyfile=FILE`, `redirect-http`, `proxy-protocol[=off|v1|v2|auto]`,
    `transparent=redirect|tproxy`, `only=HANDLER`, `silence=HANDLER`, `silence-after=SECONDS`, and for unix
    sockets `mode=OCTAL`, `user=USER` and
    `group=GROUP`. All other values come from `default`. Raises `OperatorError`.
    """
    address, *options = text.split(",")
    default = default or BindSettings()
    tls = default.tls
    certificates = default.certificates
    redirect_http = default.redirect_http
    proxy_protocol = default.proxy_protocol
    proxy_protocol_said = False
    transparent: Transparent | None = None
    files: dict[str, str] = {}
    mode: int | None = None
    owner: dict[str, str] = {}
    handlers: dict[str, str] = {}
    silence_after: float | None = None
    for option in options:
        name, _, value = option.strip().partition("=")
        match name:
            case "tls" if value in ("off", "required", "optional"):
                tls = value  # type: ignore[assignment]  # the guard has checked it
            case "certfile" | "keyfile" if value:
                files[name] = value
            case "redirect-http" if not value:
                redirect_http = True
            case "proxy-protocol" if value in ("", "off", "v1", "v2", "auto"):
                proxy_protocol = value or "auto"  # type: ignore[assignment]  # the guard has checked it
                proxy_protocol_said = True
            case "transparent" if value in ("redirect", "tproxy"):
                transparent = value  # type: ignore[assignment]  # the guard has checked it
            case "only" | "silence" if value:
                handlers[name] = value
            case "silence-after" if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
                silence_after = float(value)
            case "mode" if re.fullmatch("0?[0-7]{3}", value):
                mode = int(value, 8)
            case "user" | "group" if value:
                owner[name] = value
            case _:
                raise OperatorError(
                    f"bind {text!r}: {option.strip()!r} is not tls=off|required|optional, certfile=FILE, keyfile=FILE, redirect-http, "
                    "proxy-protocol, transparent=redirect|tproxy, only=HANDLER, silence=HANDLER, silence-after=SECONDS, "
                    "or for a unix socket mode=660, user=USER, group=GROUP"
                )
    if "keyfile" in files and "certfile" not in files:
        raise OperatorError(f"bind {text!r}: a keyfile without a certfile")
    if "certfile" in files:
        certificates = (CertificateFiles(certfile=files["certfile"], keyfile=files.get("keyfile", files["certfile"])),)
        if not any(option.strip().startswith("tls=") for option in options) and tls == "off":
            tls = "required"
    if transparent is not None and not any(option.strip().startswith("tls=") for option in options):
        tls = "off"
    if tls != "required" and any(option.strip() == "redirect-http" for option in options):
        raise OperatorError(f"bind {text!r}: redirect-http is for a bind that requires TLS, and redirects plain HTTP to the same port")
    if tls != "required":
        redirect_http = False  # with tls=off, the certificates are for handlers that do STARTTLS
    if transparent is not None:
        certificates = ()
        proxy_protocol = proxy_protocol if proxy_protocol_said else "off"
    host, port, path, fd = _parse_address(text, address.strip())
    return BindSettings(
        host=host,
        port=port,
        path=path,
        fd=fd,
        tls=tls,
        certificates=certificates,
        redirect_http=redirect_http,
        proxy_protocol=proxy_protocol,
        only=handlers.get("only"),
        silence=handlers.get("silence"),
        silence_after=silence_after,
        transparent=transparent,
        reuse_port=default.reuse_port and path is None and fd is None,
        mode=mode,
        user=owner.get("user"),
        group=owner.get("group"),
    )


def _parse_address(text: str, address: str) -> tuple[str, int, str | None, int | None]:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path:
            raise OperatorError(f"bind {text!r}: unix: needs a path")
        return "", 0, path, None
    if address.startswith("fd://"):
        number = address.removeprefix("fd://")
        if not number.isdigit():
            raise OperatorError(f"bind {text!r}: fd:// needs the number of a descriptor")
        return "", 0, None, int(number)
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        raise OperatorError(f"bind {text!r}: it is HOST:PORT, :PORT, [ADDRESS]:PORT, unix:PATH or fd://N{_meant(address)}")
    if int(port) > 65535:
        raise OperatorError(f"bind {text!r}: the largest port is 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise OperatorError(f"bind {text!r}: an IPv6 address stands in brackets, as in [::1]:{port}")
    return host or "0.0.0.0", int(port), None, None


def _meant(address: str) -> str:
    """The end of an error message: a guess what the operator meant by `address`."""
    if address.isdecimal():
        return f"; did you mean 127.0.0.1:{address}, or :{address} for all addresses of this machine?"
    url = re.fullmatch(r"(https?|tcp|unix)://([^/,]*)(/.*)?", address)
    if url is not None:
        scheme, place, path = url.groups()
        if scheme == "unix":
            return f"; did you mean unix:{place}{path or ''}?"
        if not re.search(r":[0-9]+\Z", place):
            place += {"http": ":80", "https": ":443", "tcp": ":8000"}[scheme]
        return f"; did you mean {place}{',tls=required' if scheme == 'https' else ''}?"
    if address.startswith("/"):
        return f"; did you mean unix:{address}?"
    if re.fullmatch(r"[A-Za-z0-9.-]+", address):
        return f"; did you mean {address}:8000?"
    return ""
