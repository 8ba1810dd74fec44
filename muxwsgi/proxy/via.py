"""`Via`: our entry in the Via field (RFC 9110 section 7.6.3), by which a message that comes back here is known.

RFC 9110 demands the entry of every proxy. goproxy and mitmproxy send none, since it tells servers that there is a proxy. Between the two:
further proxies always get it, because loops are made of proxies; servers get it only where the operator has given a name.

A loop through proxies that drop the field, or through SOCKS, which has none, is bounded elsewhere: see `REQUESTS_AT_ONCE` of the dialer.
"""

import secrets

from muxwsgi.proxy.fault import Fault, Phase

__all__ = ["Via"]


class Via:
    """One proxy's entry.

    name        our pseudonym, "" where none is sent and nothing is checked
    to_servers  whether servers get it, and not further proxies alone
    """

    def __init__(self, name: str | None = None, pseudonym: str | None = None) -> None:
        """`pseudonym` is used if `name` is None; None for a random one. A client that knew it could have requests refused."""
        self.to_servers = bool(name)
        self.name = (pseudonym or secrets.token_hex(8)) if name is None else name

    def check(self, received: str) -> None:
        """Raise `Fault` (LOOP) where the message with the field value `received` ("" without one) has passed here before."""
        if not self.name or self.name not in received:
            return
        for hop in received.split(","):
            words = hop.split()  # received-protocol RWS received-by [ RWS comment ]
            if len(words) >= 2 and words[1] == self.name:
                raise Fault(Phase.LOOP, "the request has passed this proxy before (Via)")

    def in_connect(self, received: str) -> str:
        """The value of the field in a CONNECT to a further proxy: `received` ("" without) and our entry."""
        return ", ".join([*([received] if received else []), *(value for _, value in self.sent("1.1", to_proxy=True))])

    def sent(self, version: str, *, to_proxy: bool) -> tuple[tuple[str, str], ...]:
        """The field to add to a message that came in HTTP/`version`: one, or none."""
        if self.name and (to_proxy or self.to_servers):
            return (("Via", f"{version} {self.name}"),)
        return ()
