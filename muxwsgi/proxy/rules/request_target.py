"""`RequestTarget`: the URL, host, path and query of a request, which rules can change. A part of `Request`."""

import re
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import quote, unquote, urlsplit

import werkzeug.wrappers
from werkzeug.urls import iri_to_uri

from muxwsgi.names import split_host_port
from muxwsgi.proxy.rules.place import DEFAULT_PORTS

__all__ = ["RequestTarget", "read_target"]

#: The characters of a request-target: visible ASCII without "#" (RFC 9112 section 3.2).
_TARGET = re.compile(r"[!\"$-~]*")

#: authority without userinfo, which is not allowed in requests (RFC 9110 section 4.2.4).
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/?#@\\]+)(?::([0-9]{0,5}))?")

_ABSOLUTE = re.compile(r"(?i:(https?))://([^/?]*)(.*)")

#: What werkzeug caches of a URL.
_OF_URL = ("args", "values")


def read_target(environ: dict[str, Any], url_scheme: str | None, authority: str | None) -> tuple[str, str | None, str | None, bool]:
    """(target in origin form, scheme, authority, whether it was in absolute form) of the request in `environ` (RFC 9112 section 3.2).
    `url_scheme` and `authority` replace those of the target."""
    target: str
    if "muxwsgi.fields" in environ:
        target = environ["RAW_URI"]
    else:  # other servers, and werkzeug's test client, may have decoded it
        path = cast(str, environ.get("SCRIPT_NAME", "")) + cast(str, environ.get("PATH_INFO", ""))
        query = environ.get("QUERY_STRING")
        target = quote(path.encode("latin-1")) + (f"?{query}" if query else "")
    is_absolute = False
    if target[:1] != "/" and target != "*":
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            target = ""  # CONNECT: its target is the authority
        else:
            is_absolute = True
            url_scheme = url_scheme or absolute[1].lower()
            authority = authority or absolute[2]
            target = absolute[3]
            if not target and environ.get("REQUEST_METHOD") == "OPTIONS":
                target = "*"  # it means that (RFC 9112 section 3.2.4)
            elif target[:1] != "/":
                target = "/" + target
    return target, url_scheme, authority, is_absolute


class RequestTarget(werkzeug.wrappers.Request):
    """Setting `url` or `host` redirects the request, and sets the Host field too."""

    redirected: bool
    carrier: tuple[str, int] | None
    _target: str
    _authority: str

    @property
    def target(self) -> str:
        """Path and query with their escapes: "/a%20b?c=d", "*" for OPTIONS, "" for CONNECT. The upstream gets the same bytes."""
        return self._target

    @target.setter
    def target(self, value: str) -> None:
        target = value if _TARGET.fullmatch(value) else iri_to_uri(value)
        if _TARGET.fullmatch(target) is None or not (target[:1] == "/" or target in ("*", "")):
            raise ValueError(f"{value!r} is not a request-target")
        value = target
        self._target = value
        self._forget(_OF_URL)

    @property
    def url(self) -> str:
        """The absolute URL, with its query and with the escapes that were sent."""
        return f"{self.scheme}://{self._authority}{'' if self._target == '*' else self._target}"

    @url.setter
    def url(self, value: str) -> None:
        parts = urlsplit(value)
        scheme = parts.scheme.lower()
        if scheme not in ("http", "https"):
            raise ValueError(f"{value!r} is not an http or https URL")
        rest = parts.path or "/"
        target = f"{rest}?{parts.query}" if parts.query else rest
        moved = (scheme, parts.netloc) != (self.scheme, self._authority)
        if moved:
            self._move(scheme, parts.netloc)
        self.target = target

    @property
    def host(self) -> str:
        """The destination, "host" or "host:port", spelled as it was sent."""
        return self._authority

    @host.setter
    def host(self, value: str) -> None:
        self._move(self.scheme, value)

    @property
    def destination(self) -> tuple[str, int]:
        """Host, without brackets, and port of the URL."""
        host, port = split_host_port(self._authority)
        return host, port or DEFAULT_PORTS.get(self.scheme, 0)

    @property
    def ways(self) -> tuple[tuple[str, int], ...]:
        """The schemes and ports that conditions compare: those of the request, and inside a tunnel also those of the tunnel.

        A server in a tunnel ignores the scheme of an absolute target and the port in Host. So a client could send a wrong one to bypass a
        rule, if only these were compared.
        """
        port = split_host_port(self._authority)[1]
        named = (self.scheme, port or DEFAULT_PORTS.get(self.scheme, 0))
        if self.carrier is None or self.redirected or self.carrier == named:
            return (named,)
        scheme, carried = self.carrier
        ways = (named, (scheme, port or DEFAULT_PORTS.get(scheme, 0)), self.carrier, (self.scheme, carried))
        return tuple(dict.fromkeys(ways))

    def _move(self, scheme: str, authority: str) -> None:
        authority = authority if authority.isascii() else authority.encode("idna").decode()
        match = _AUTHORITY.fullmatch(authority)
        if match is None or (match[2] and not 0 < int(match[2]) <= 65535):
            raise ValueError(f"{authority!r} is not a host")
        self.scheme = scheme
        self._authority = authority
        self.redirected = True
        self.headers["Host"] = authority

    @property
    def path(self) -> str:
        """The path without escapes; "" for CONNECT and OPTIONS *."""
        path = self._target.partition("?")[0]
        if path == "*":
            return ""
        return unquote(path) if "%" in path else path

    @path.setter
    def path(self, value: str) -> None:
        query = self._target.partition("?")[1:]
        self.target = quote(value, safe="/!$&'()*+,;=:@~") + "".join(query)

    @property
    def query_string(self) -> bytes:
        """The query after "?", with its escapes."""
        return self._target.partition("?")[2].encode("ascii")

    @query_string.setter
    def query_string(self, value: bytes) -> None:
        path = self._target.partition("?")[0]
        self.target = path + ("?" + value.decode("ascii") if value else "")

    @property
    def full_path(self) -> str:
        """Path and query as werkzeug spells them: always with "?"."""
        return f"{self.path}?{self.query_string.decode()}"

    @property
    def base_url(self) -> str:
        """The URL without its query."""
        return self.url.partition("?")[0]

    @property
    def root_url(self) -> str:
        """Scheme and host, with a slash."""
        return f"{self.scheme}://{self._authority}/"

    @property
    def url_root(self) -> str:
        """The same as `root_url`."""
        return self.root_url

    @property
    def host_url(self) -> str:
        """The same as `root_url`."""
        return self.root_url

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.__dict__.pop(name, None)
