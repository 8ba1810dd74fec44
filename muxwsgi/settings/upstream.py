"""`[upstream.NAME]` of the configuration: servers, and how one is chosen and watched. The names are HAProxy's where an option is the same.

Imports no gevent. `muxwsgi/upstreams/` makes objects of it.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.names import InvalidName, address_of, canonical, join_host_port
from muxwsgi.record import record
from muxwsgi.setting import read_options, setting, settings_of

__all__ = ["TLVS", "Place", "UpstreamServerSettings", "UpstreamSettings", "markdown", "parse_place", "parse_upstream", "short_upstream"]

#: (host, port), or the path of a unix socket.
Place = tuple[str, int] | str

#: TLVs of a PROXY header of version 2 that can be sent. `crc32c` is the checksum.
TLVS = ("alpn", "authority", "ssl", "cert-cn", "ssl-cipher", "unique-id", "crc32c")

_BALANCE = re.compile(r"roundrobin|leastconn|source|first|random(?:\(([1-9][0-9]?)\))?")

#: Bytes of the path of a unix socket (unix(7)), without the NUL at its end.
_PATH = 107

#: Names of upstreams and servers: words, so that they differ from addresses and need no quotes in `ctl`.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")


@record(kw_only=True)
class UpstreamServerSettings:
    """One server of an upstream. A key that stands in the table of the upstream is the default of all its servers."""

    address: str = setting("", "HOST:PORT, [ADDRESS]:PORT, unix:PATH, or srv:_SERVICE._tcp.NAME for the servers that SRV records name.")
    name: str = setting("", "How listings, logs and `ctl` call it. Default: the address.")
    weight: int = setting(1, "Its share of the connections, compared with the weights of the others; at most 256.", at_least=1)
    maxconn: int = setting(0, "Connections at once in each worker; more wait in the queue. 0: no limit.", unit="N", at_least=0)
    backup: bool = setting(False, "It is used only if no other server is up.")
    disabled: bool = setting(False, "It begins in maintenance, until `muxwsgi ctl upstream` sets it to ready.")
    ssl: bool = setting(False, "TLS with the server. Its certificate is verified.")
    verify: str = setting(
        "required", "`none` does not verify the certificate. A warning says so at each start.", choices=("required", "none")
    )
    ca_file: str = setting("", "CAs for it, PEM. Default: those of the system.", unit="FILE")
    verifyhost: str = setting("", "The name or address that the certificate has to be for. Default: `sni`, then the host of the address.")
    sni: str = setting("", "The server name to send. Default: `verifyhost`, then the host of the address if it is a name.")
    alpn: tuple[str, ...] = setting((), "ALPN ids to offer.")
    crt: str = setting("", "Client certificate with its chain, PEM.", unit="FILE")
    key: str = setting("", "Its private key. Default: `crt` holds it.", unit="FILE")
    send_proxy: bool = setting(False, "A PROXY header of version 1 comes before the bytes of the client, and before TLS.")
    send_proxy_v2: bool = setting(False, "The same with version 2.")
    proxy_v2_options: tuple[str, ...] = setting(TLVS, f"What version 2 says beside the addresses: {', '.join(TLVS)}. Default: all.")
    source: str = setting(
        "",
        "Connect from this address. `client`: from the client's (IP_TRANSPARENT), which needs CAP_NET_ADMIN, and routes back here.",
    )
    resolve: float = setting(
        10.0, "Seconds until a name is looked up again. If that fails, its addresses before stay in use.", unit="SECONDS", above=0
    )
    check: bool = setting(False, "Connect to it again and again to see whether it is up. A server that is down is checked in any case.")
    inter: float = setting(2.0, "Time between two checks.", unit="SECONDS", above=0)
    spread_checks: int = setting(
        10, "Percent by which this time is shorter or longer at random, so that checks do not come together; at most 50.", at_least=0
    )
    check_timeout: float = setting(2.0, "Time for one check.", unit="SECONDS", above=0)
    rise: int = setting(2, "Checks in a row that have to succeed until a server that is down is up.", at_least=1)
    fall: int = setting(3, "Failures in a row until a server is down.", at_least=1)
    check_port: int = setting(0, "Check this port of the host instead. 0: that of the address.", at_least=0)
    check_send: str = setting("", "What a check sends. A character is a byte (Latin-1).")
    check_expect: str = setting("", "What the first 16 KiB of the answer have to contain.")
    check_send_proxy: bool = setting(False, "A check begins with a PROXY header too (LOCAL), if connections do.")
    observe: str = setting(
        "layer4", "`layer4`: connections that fail count as failed checks. `none`: only checks count.", choices=("layer4", "none")
    )
    slowstart: float = setting(
        0.0, "Seconds in which the weight and `maxconn` grow after the server was down. 0: at once.", unit="SECONDS", at_least=0
    )
    on_marked_down: str = setting(
        "none", "`shutdown-sessions`: its connections are cut when it goes down.", choices=("none", "shutdown-sessions")
    )

    def __post_init__(self) -> None:
        if not self.address:
            raise OperatorError("`address` is missing")
        place = self.place
        if self.is_service and self.name:
            raise OperatorError("name: servers that SRV records name have their addresses as names")
        if self.weight > 256:
            raise OperatorError(f"weight: {self.weight} is more than 256")
        if self.spread_checks > 50:
            raise OperatorError(f"spread_checks: {self.spread_checks} is more than 50")
        if self.check_port > 65535 or (self.check_port and isinstance(place, str)):
            raise OperatorError(f"check_port: {self.check_port} is not a port of {self.address}")
        if self.name and not _NAME.fullmatch(self.name):
            raise OperatorError(f"name: {self.name!r} is not a word of at most 63 letters, digits, '.', '_' and '-'")
        if self.send_proxy and self.send_proxy_v2:
            raise OperatorError("send_proxy: send_proxy_v2 is given too: choose one")
        for each in self.proxy_v2_options:
            if each not in TLVS:
                raise OperatorError(f"proxy_v2_options: {each!r} is not {', '.join(TLVS[:-1])} or {TLVS[-1]}")
        for each in (self.check_send, self.check_expect):
            if not each.isascii() and any(ord(char) > 255 for char in each):
                raise OperatorError(f"check_send, check_expect: {each!r} has a character above U+00FF")
        if self.source and self.source != "client" and (address_of(self.source) is None or isinstance(place, str)):
            raise OperatorError(f"source: {self.source!r} is neither an address of this machine nor client")
        if self.source == "client" and isinstance(place, str):
            raise OperatorError("source: a unix socket has no address")
        self._check_tls(place)

    def _check_tls(self, place: Place) -> None:
        if not self.ssl:
            for name in ("ca_file", "verifyhost", "sni", "alpn", "crt", "key"):
                if getattr(self, name):
                    raise OperatorError(f"{name}: it is for TLS: add ssl = true")
            if self.verify == "none":
                raise OperatorError("verify: it is for TLS: add ssl = true")
            return
        if self.key and not self.crt:
            raise OperatorError("key: there is no crt")
        if self.verify == "none" and (self.ca_file or self.verifyhost):
            raise OperatorError("verify: with none, ca_file and verifyhost have no effect")
        for name in ("verifyhost", "sni"):
            host = getattr(self, name)
            try:
                if host and (canonical(host) != host.lower() or (name == "sni" and address_of(host) is not None)):
                    raise InvalidName
            except InvalidName:
                raise OperatorError(f"{name}: {host!r} is not a {'name' if name == 'sni' else 'name or an address'}") from None
        for each in self.alpn:
            if not each.isascii() or not 0 < len(each) < 256:
                raise OperatorError(f"alpn: {each!r} is not an id of 1 to 255 characters of ASCII")
        if isinstance(place, str) and self.verify == "required" and not (self.verifyhost or self.sni):
            raise OperatorError("ssl: a unix socket has no name to verify: add verifyhost")

    @property
    def place(self) -> Place:
        """Where it listens; of a service its name, and no port. Raises `OperatorError`."""
        try:
            if self.is_service:
                name = self.address.removeprefix("srv:")
                if not name.startswith("_"):
                    raise ValueError(name)
                return canonical(name), 0
            return parse_place(self.address)
        except ValueError:
            raise OperatorError(f"address: {self.address!r} is not HOST:PORT, [ADDRESS]:PORT, unix:PATH or srv:NAME") from None

    @property
    def is_service(self) -> bool:
        """Whether SRV records say where the servers are."""
        return self.address.startswith("srv:")

    @property
    def title(self) -> str:
        """The name, or the address."""
        return self.address if self.is_service else self.name or place_text(self.place)


@record(kw_only=True)
class UpstreamOptions:
    """How a server of an upstream is chosen."""

    balance: str = setting(
        "roundrobin",
        "`roundrobin`; `leastconn`: the fewest connections; `source`: a client address has the same server; `first`: the first with room; "
        "`random(2)`: the one with fewer connections of two that are drawn.",
    )
    retries: int = setting(
        3, "Attempts after one that failed, first on servers that were not tried. No byte of the client has left before.", at_least=0
    )
    connect_timeout: float = setting(5.0, "Time for one attempt: looking up the name, connecting, TLS.", unit="SECONDS", above=0)
    total_timeout: float = setting(20.0, "Time for all attempts and for the queue.", unit="SECONDS", above=0)
    queue_timeout: float = setting(5.0, "Time that a connection waits if all servers are at `maxconn`.", unit="SECONDS", above=0)
    maxqueue: int = setting(100, "Connections that wait in each worker; more are closed.", unit="N", at_least=0)

    def __post_init__(self) -> None:
        if not _BALANCE.fullmatch(self.balance):
            raise OperatorError(f"balance: {self.balance!r} is not roundrobin, leastconn, source, first, random or random(N)")

    @property
    def drawn(self) -> int:
        """N of `random(N)`; 0 for another balance."""
        match = _BALANCE.fullmatch(self.balance)
        return int(match[1] or 2) if match is not None and self.balance.startswith("random") else 0


@record(kw_only=True)
class UpstreamSettings:
    """Several servers behind one name.

    name        the name; of the short form the text after `forward:`
    is_named    whether it is a table of the configuration
    """

    name: str
    servers: tuple[UpstreamServerSettings, ...]
    options: UpstreamOptions = UpstreamOptions()
    is_named: bool = True


_OPTIONS = tuple(each.name for each in fields(UpstreamOptions))
_OF_SERVER = tuple(each.name for each in fields(UpstreamServerSettings))
_OF_ONE = ("address", "name")


def parse_upstream(name: str, table: Any, where: str) -> UpstreamSettings:
    """The settings of the table `[upstream.NAME]`. Raises `OperatorError`, which begins with `where`."""
    if not _NAME.fullmatch(name):
        raise OperatorError(f"{where}: an upstream is named by a word of at most 63 letters, digits, '.', '_' and '-'")
    if not isinstance(table, Mapping):
        raise OperatorError(f"{where}: {table!r} is not a table")
    own: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    servers: Any = None
    for key, value in table.items():
        plain = key.replace("-", "_")
        if plain == "server":
            servers = value
        elif plain in _OPTIONS:
            own[plain] = value
        elif plain in _OF_SERVER and plain not in _OF_ONE:
            shared[plain] = value
        else:
            known = ", ".join(["server", *_OPTIONS, *(each for each in _OF_SERVER if each not in _OF_ONE)])
            raise OperatorError(f"{where}: there is no key {key!r} in an upstream; there are {known}")
    if not isinstance(servers, list) or not servers:
        raise OperatorError(f"{where}: `server` is missing: a list of addresses, or tables as in [[upstream.{name}.server]]")
    made = tuple(_server(each, shared, f"{where}: server {number}") for number, each in enumerate(servers, 1))
    titles = [each.title for each in made]
    twice = next((title for title in titles if titles.count(title) > 1), None)
    if twice is not None:
        raise OperatorError(f"{where}: two servers are named {twice!r}: give them names")
    options = read_options(UpstreamOptions, own, where)
    if options.connect_timeout > options.total_timeout:
        raise OperatorError(f"{where}: connect_timeout: {options.connect_timeout:g} is more than total_timeout, {options.total_timeout:g}")
    return UpstreamSettings(name=name, servers=made, options=options)


def _server(given: Any, shared: Mapping[str, Any], where: str) -> UpstreamServerSettings:
    if isinstance(given, str):
        given = {"address": given}
    if not isinstance(given, Mapping):
        raise OperatorError(f"{where}: {given!r} is neither an address nor a table")
    return read_options(UpstreamServerSettings, {**shared, **{key.replace("-", "_"): value for key, value in given.items()}}, where)


def short_upstream(text: str) -> UpstreamSettings:
    """The upstream that `HOST:PORT` or `HOST:PORT,HOST:PORT` stands for. One address alone is tried once, and not watched. Raises
    `ValueError`."""
    texts = text.split(",") if not text.startswith("unix:") else [text]
    places = [parse_place(each) for each in texts]
    if len(set(places)) < len(places):
        raise ValueError(f"{text}: an address is given twice")
    alone = len(places) == 1
    servers = tuple(UpstreamServerSettings(address=place_text(place), observe="none" if alone else "layer4") for place in places)
    options = UpstreamOptions(retries=0) if alone else UpstreamOptions()
    return UpstreamSettings(name=",".join(map(place_text, places)), servers=servers, options=options, is_named=False)


def parse_place(text: str) -> Place:
    """What HOST:PORT, [ADDRESS]:PORT or unix:PATH means. The zone of an IPv6 address (`fe80::1%eth0`) is kept. Raises `ValueError`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not 0 < len(os.fsencode(path)) <= _PATH or "\0" in path:
            raise ValueError(text)
        return path
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    bare, percent, zone = host.partition("%")
    if (":" in host) is not bracketed or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(text)
    if percent and (":" not in bare or not zone):  # only an address of IPv6 has a zone
        raise ValueError(text)
    canonical(bare)  # raises InvalidName, a ValueError
    return host, int(port)


def place_text(place: Place) -> str:
    """As an operator writes it."""
    return f"unix:{place}" if isinstance(place, str) else join_host_port(*place)


def markdown() -> str:
    """The tables of docs/upstreams.md."""
    lines = []
    for owner, title in ((UpstreamOptions, "of the upstream"), (UpstreamServerSettings, "of a server")):
        lines += [f"| key {title} | default | what it says |", "|---|---|---|"]
        for name, (known, default) in settings_of(owner).items():
            shown = "all" if default is TLVS else "" if default in ("", ()) else f"`{_toml(default)}`"
            lines.append(f"| `{name}` | {shown} | {known.help} |")
        lines.append("")
    return "\n".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else f'"{value}"' if isinstance(value, str) else str(value)
