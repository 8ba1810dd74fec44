"""One route of the configuration, as the operator wrote it. `server/routes.py` makes a `Route` of it."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from muxwsgi.errors import OperatorError
from muxwsgi.networks import Networks, parse_networks
from muxwsgi.record import record

__all__ = ["RouteSettings", "parse_route", "short_route"]


@record(kw_only=True)
class RouteSettings:
    """One route of the configuration.

    where           the place that messages name
    to              http, a hijacker, forward:HOST:PORT, passthrough:HOST:PORT, close, or reject
    match           a protocol's name, or a table (see `server/route_match.py`); None: all that the other keys let pass
    name            shown in listings and logs; by default the protocol's name, or `to`, with a number if it is taken
    sni, alpn       server names and ALPN ids, of the TLS that is terminated, or of the ClientHello where the route gets TLS as it is
    tls             no: connections without TLS, also where a bind requires it. yes: inside of TLS. any: both, also where a bind
                    requires TLS. None: both, and inside of TLS where a bind requires it
    bind            addresses of the binds that have the route, as they are written there; empty: all
    clients, except_clients     networks of the clients that it is for, or not for
    clients_file    such a list in a file, which is looked at again
    subject, san    what the client's certificate has to say: `CN=ann`, and names, addresses or mail addresses
    time            when: `08:00-18:00`, `mon-fri 08:00-18:00`, `sat,sun`
    limit, limit_per_client, rate, rate_per_client, limit_wait, idle_timeout, priority      as of hijackers
    upload_rate, download_rate              bytes a second of one connection, from the client and to it; for forward and passthrough
    total_upload_rate, total_download_rate  the same of all connections of the route in one worker
    silence         whether it also gets connections whose client waits for the server to speak; None: as the protocol has it
    """

    where: str
    to: str
    match: Any = None
    name: str | None = None
    sni: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ()
    tls: Literal["no", "yes", "any"] | None = None
    bind: tuple[str, ...] = ()
    clients: Networks | None = None
    except_clients: Networks | None = None
    clients_file: str | None = None
    subject: tuple[str, ...] = ()
    san: tuple[str, ...] = ()
    time: str | None = None
    limit: int | None = None
    limit_per_client: int | None = None
    rate: float | None = None
    rate_per_client: float | None = None
    limit_wait: float = 0.0
    idle_timeout: float | None = None
    priority: int = 0
    upload_rate: float | None = None
    download_rate: float | None = None
    total_upload_rate: float | None = None
    total_download_rate: float | None = None
    silence: bool | None = None

    @property
    def title(self) -> str:
        """The name of the route."""
        return self.name or (self.match if isinstance(self.match, str) else self.to)


_TEXTS = frozenset({"sni", "alpn", "bind", "subject", "san"})
_NETWORKS = frozenset({"clients", "except_clients"})
_NUMBERS: dict[str, tuple[type, ...]] = {
    "limit": (int,),
    "limit_per_client": (int,),
    "rate": (int, float),
    "rate_per_client": (int, float),
    "limit_wait": (int, float),
    "idle_timeout": (int, float),
    "priority": (int,),
    "upload_rate": (int, float),
    "download_rate": (int, float),
    "total_upload_rate": (int, float),
    "total_download_rate": (int, float),
    "silence": (bool,),
}
KEYS = tuple(each.name for each in fields(RouteSettings) if each.name != "where")


def short_route(text: str) -> dict[str, Any]:
    """The table that `MATCH=TO` stands for: MATCH is a protocol, `sni:NAME` or `alpn:ID`. Raises `OperatorError`."""
    match, equals, to = text.partition("=")
    if not equals or not match or not to:
        raise OperatorError(f"{text!r} is not MATCH=TO, as in ssh=forward:127.0.0.1:22")
    kind, colon, value = match.partition(":")
    if not colon:
        return {"match": match, "to": to}
    if kind not in ("sni", "alpn") or not value:
        raise OperatorError(f"{text!r}: in front of = stands a protocol, sni:NAME or alpn:ID")
    return {kind: value, "to": to}


def parse_route(table: Mapping[str, Any], where: str) -> RouteSettings:
    """The settings of a table of the configuration. Raises `OperatorError`, which begins with `where`."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        place = f"{where}: {key}"
        if name not in KEYS:
            raise OperatorError(f"{where}: there is no key {key!r} in a route; there are {', '.join(KEYS)}")
        if name in _TEXTS:
            values[name] = _texts(value, place)
        elif name in _NETWORKS:
            values[name] = parse_networks(" ".join(_texts(value, place)), place)
        elif name in _NUMBERS:
            if not isinstance(value, _NUMBERS[name]) or (isinstance(value, bool) and bool not in _NUMBERS[name]):
                raise OperatorError(f"{place}: {value!r} is not {'true or false' if name == 'silence' else 'a number'}")
            values[name] = value
        elif name == "match":
            if not isinstance(value, str | Mapping):
                raise OperatorError(f"{place}: {value!r} is neither the name of a protocol nor a table")
            values[name] = value
        elif not isinstance(value, str) or not value:
            raise OperatorError(f"{place}: {value!r} is not a text")
        elif name == "tls" and value not in ("no", "yes", "any"):
            raise OperatorError(f"{place}: {value!r} is not no, yes or any")
        else:
            values[name] = value
    if "to" not in values:
        raise OperatorError(f"{where}: `to` is missing: http, a hijacker, forward:HOST:PORT, passthrough:HOST:PORT, close or reject")
    return RouteSettings(where=where, **values)


def _texts(value: Any, place: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(each, str) and each for each in texts):
        raise OperatorError(f"{place}: {value!r} is not a text or a list of texts")
    return tuple(texts)
