"""Forwarding fields: what a proxy in front says of its client goes into the environ, if the proxy is trusted.

A client can send these fields itself. So three things have to be known before one is believed, and the operator says all three
(`TrustSettings`):

- **The peer.** Fields count only from peers in `forwarded_allow_ips`. The address is `Connection.client`: what the kernel says, or a PROXY
  header of a trusted load balancer. No field has a part in it.
- **The field.** A proxy passes on what it does not know, so a field that it does not set is the client's. Only the fields in
  `forwarded_headers` count.
- **The place in the field.** Proxies append to lists, so the beginning of a list may be the client's. Lists are read from the end: each
  trusted proxy has written down who connected to it. The first address that is not of a trusted proxy is the client's. The number of
  proxies is not asked for: a request that takes a shorter way would let its client choose an address. With `*` it is not known which
  addresses are proxies, so the last entry counts.

Values that cannot be understood, and fields of one request that contradict each other, are answered with 400.

This is the one place that changes what the environ says of the client. It changes REMOTE_ADDR, REMOTE_PORT, `wsgi.url_scheme`, HTTPS,
HTTP_HOST, SERVER_NAME, SERVER_PORT, SCRIPT_NAME and the client certificate, before the record for logs is made. It does not change the
connection: access lists, limits and events of connections use `Connection.client`. An engine of any version of HTTP calls
`Gateway.forwarding` once for a connection, and `read` of what it returns for each request.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from muxwsgi.errors import PeerError
from muxwsgi.http.environ import Environ
from muxwsgi.http.forwarded import Hop, parse_forwarded, parse_node
from muxwsgi.names import IPAddress, split_host_port
from muxwsgi.settings.trust import FORWARDED_FIELDS, TrustSettings
from muxwsgi.wire.peer import TrustedPeers

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Address

__all__ = ["Forwarding", "ForwardingReader"]

#: Schemes as proxies spell them. That of a WebSocket is the scheme of its handshake.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https", "ssl": "https"}
_SSL = {"on": "https", "off": "http"}

_DEFAULT_PORTS = {"http": "80", "https": "443"}

_PREFIX = re.compile(r"(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@%]+)*/?")
_PORT = re.compile(r"[0-9]{1,5}")

#: Keys that no field with an underscore may set: they decide about framing or about trust, and were decided already.
_FIXED = frozenset({"CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_TRANSFER_ENCODING", "HTTP_HOST"})


#: Values of fields that are remembered, and their characters.
_KNOWN_AT_MOST = 1024
_KNOWN_LENGTH = 120


def _key(field: str) -> str:
    return "HTTP_" + field.upper().replace("-", "_")


class Forwarding:
    """The operator's settings, as a reader for each kind of peer."""

    def __init__(self, settings: TrustSettings, is_host: Callable[[str], bool]) -> None:
        """`is_host` says whether a text can be the value of Host."""
        self._peers = TrustedPeers(settings.forwarders)
        known = [_key(name) for name in FORWARDED_FIELDS]
        certificate = _key(settings.client_cert_header) if settings.client_cert_header else ""
        if certificate:
            from muxwsgi.http import client_certificate  # noqa: F401  # and cryptography, before the first request
        believed = tuple(_key(name) for name in settings.fields)
        dropped: tuple[str, ...] = () if settings.is_default else tuple(known)
        of_trusted = tuple(key for key in dropped if key not in believed)
        of_others = (*dropped, certificate, f"{certificate}_CHAIN") if certificate else dropped
        self._of_trusted = ForwardingReader(settings, self._peers, is_host, believed, of_trusted, certificate)
        self._of_others = ForwardingReader(settings, None, is_host, (), of_others, "")

    def reader(self, client: "Address") -> "ForwardingReader | None":
        """What reads the requests of a peer; None if there is nothing to do for it."""
        reader = self._of_trusted if self._peers.trusts(client) else self._of_others
        return reader if reader.needed else None


class ForwardingReader:
    """Reads the requests of one kind of peer.

    needed      whether it does anything
    """

    __slots__ = (
        "_believed",
        "_certificate",
        "_dropped",
        "_header_map",
        "_is_host",
        "_keys",
        "_known",
        "_named",
        "_peers",
        "_reserved",
        "_underscored",
        "needed",
    )

    def __init__(
        self,
        settings: TrustSettings,
        peers: TrustedPeers | None,
        is_host: Callable[[str], bool],
        believed: tuple[str, ...],
        dropped: tuple[str, ...],
        certificate: str,
    ) -> None:
        """`peers` are the trusted ones, None if this peer is not one of them. `believed`, `dropped` and `certificate` are environ keys."""
        self._peers = peers
        self._is_host = is_host
        self._believed = frozenset(believed)
        self._dropped = dropped
        self._certificate = certificate
        self._keys = believed + dropped
        self._known: dict[str, Hop] = {}  # by value: a client sends many requests
        self._reserved = frozenset((*self._keys, certificate, *map(_key, FORWARDED_FIELDS))) | _FIXED
        self._underscored = frozenset(settings.underscored if peers is not None else ())
        self._header_map = settings.header_map
        self._named = bool(self._underscored) or settings.header_map != "drop"  # each request is searched for names
        self.needed = bool(self._keys or certificate) or self._named

    def read(self, environ: Environ) -> None:
        """Bring `environ`, which is that of a request before the application is called, up to date. Raises `PeerError` (400)."""
        for key in self._keys:
            if key in environ:
                self._read(environ)
                break
        if self._certificate:
            self._read_certificate(environ)
        if self._named:
            self._read_underscored(environ)

    def _read(self, environ: Environ) -> None:
        for key in self._dropped:
            environ.pop(key, None)
        if self._peers is None:
            return
        believed = {key: environ[key] for key in self._believed if environ.get(key)}
        hop = self._client(believed)
        if hop is not None and hop.told:
            environ["REMOTE_ADDR"] = "" if hop.address is None else str(hop.address)
            environ.pop("REMOTE_PORT", None)
            if hop.port:
                environ["REMOTE_PORT"] = str(hop.port)
        scheme = _scheme(believed, hop)
        host = _last(believed.get("HTTP_X_FORWARDED_HOST")) or (None if hop is None else hop.host)
        self._rewrite(environ, scheme, host, _last(believed.get("HTTP_X_FORWARDED_PORT")))
        prefix = _last(believed.get("HTTP_X_FORWARDED_PREFIX"))
        if prefix:
            if not _PREFIX.fullmatch(prefix):
                raise PeerError(400, f"X-Forwarded-Prefix is not a path: {prefix[:60]!a}")
            environ["SCRIPT_NAME"] = prefix.rstrip("/")

    def _read_certificate(self, environ: Environ) -> None:
        """The client's certificate in place of the one of the proxy, which is that of the connection."""
        for key in [key for key in environ if key.startswith("SSL_CLIENT_")]:
            del environ[key]
        value = environ.get(self._certificate)
        if value:
            from muxwsgi.http.client_certificate import passed_certificate_environ  # and cryptography

            environ.update(passed_certificate_environ(value))
        else:
            environ["SSL_CLIENT_VERIFY"] = "NONE"

    def _client(self, believed: dict[str, str]) -> Hop | None:
        """The sender of the request, as the trusted proxies have it; None if they do not say."""
        value = believed.get("HTTP_FORWARDED") or believed.get("HTTP_X_FORWARDED_FOR")
        if value is None:
            return None
        hop = self._known.get(value)
        if hop is None:
            hop = self._read_hops(value, "HTTP_FORWARDED" in believed)
            if hop is not None and len(value) <= _KNOWN_LENGTH:
                if len(self._known) >= _KNOWN_AT_MOST:
                    self._known.clear()
                self._known[value] = hop
        return hop

    def _read_hops(self, value: str, is_forwarded: bool) -> Hop | None:
        hops: list[Hop]
        try:
            if is_forwarded:
                hops = parse_forwarded(value)
                return self._first_stranger(len(hops), hops.__getitem__)
            texts = value.split(",")
            # From the end, and no further than needed: what is before may be anything.
            return self._first_stranger(len(texts), lambda at: Hop(*parse_node(texts[at].strip(" \t"), bare=True)))
        except ValueError as error:
            raise PeerError(400, f"the peer's forwarding field: {error}") from None

    def _first_stranger(self, count: int, hop_at: Callable[[int], Hop]) -> Hop | None:
        """The last of the hops that is not a trusted proxy; the first of all, if all are trusted."""
        hop = None
        for at in range(count - 1, -1, -1):
            hop = hop_at(at)
            if not self._is_trusted(hop.address):
                break
        return hop

    def _is_trusted(self, address: IPAddress | None) -> bool:
        return address is not None and self._peers is not None and self._peers.networks.has(address)

    def _rewrite(self, environ: Environ, scheme: str | None, host: str | None, port: str | None) -> None:
        if host is not None:
            if not self._is_host(host):
                raise PeerError(400, f"the forwarded host is not a host: {host[:60]!a}")
            environ["HTTP_HOST"] = host
            environ["SERVER_NAME"] = split_host_port(host)[0]
        if port is not None and (not _PORT.fullmatch(port) or not 0 < int(port) <= 65535):
            raise PeerError(400, f"X-Forwarded-Port is not a port: {port[:60]!a}")
        if scheme is not None:
            environ["wsgi.url_scheme"] = scheme
            if scheme == "https":
                environ["HTTPS"] = "on"
            else:
                environ.pop("HTTPS", None)
        if port is not None:
            environ["SERVER_PORT"] = str(int(port))
        elif scheme is not None or host is not None:
            asked = split_host_port(environ.get("HTTP_HOST", ""))[1]
            environ["SERVER_PORT"] = str(asked) if asked else _DEFAULT_PORTS[environ["wsgi.url_scheme"]]

    def _read_underscored(self, environ: Environ) -> None:
        """Fields whose names have an underscore. The engine has left them out of the environ."""
        for name, value in environ["muxwsgi.fields"]:
            if "_" not in name:
                continue
            upper = name.upper()
            if upper in self._underscored:
                self._put_forwarder(environ, upper, value)
                continue
            if self._header_map == "refuse":
                raise PeerError(400, f"the field name {name[:60]!a} has an underscore")
            key = _key(upper)
            if self._header_map == "dangerous" and upper.replace("-", "_") not in _FIXED and key not in self._reserved:
                environ[key] = f"{environ[key]},{value}" if key in environ else value

    def _put_forwarder(self, environ: Environ, name: str, value: str) -> None:
        if name != "SCRIPT_NAME":
            environ["HTTP_" + name.replace("-", "_")] = value
            return
        # As in gunicorn, the path of the request has it too.
        prefix, path = value.rstrip("/"), environ["PATH_INFO"]
        if not _PREFIX.fullmatch(value) or not (path == prefix or path.startswith(prefix + "/")):
            raise PeerError(400, f"the path does not begin with SCRIPT_NAME: {value[:60]!a}")
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = prefix, path[len(prefix) :]


def _scheme(believed: dict[str, str], hop: Hop | None) -> str | None:
    """The scheme on which all fields agree; None if there is none."""
    found = set()
    for key, known in (("HTTP_X_FORWARDED_PROTO", _SCHEMES), ("HTTP_X_FORWARDED_PROTOCOL", _SCHEMES), ("HTTP_X_FORWARDED_SSL", _SSL)):
        for text in believed.get(key, "").split(",") if key in believed else ():
            found.add(_known_scheme(text, known))
    if hop is not None and hop.proto is not None:
        found.add(_known_scheme(hop.proto, _SCHEMES))
    if len(found) > 1:
        raise PeerError(400, "the forwarding fields contradict each other: both http and https")
    return found.pop() if found else None


def _known_scheme(text: str, known: dict[str, str]) -> str:
    scheme = known.get(text.strip(" \t").lower())
    if scheme is None:
        raise PeerError(400, f"the forwarded scheme is not one: {text[:60]!a}")
    return scheme


def _last(listed: str | None) -> str | None:
    """The last entry of a list: that of the nearest proxy."""
    return None if listed is None else listed.rpartition(",")[2].strip(" \t") or None
