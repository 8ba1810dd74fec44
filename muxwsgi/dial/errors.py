"""The errors of a dial, named by the phase that fails. A dial raises no others.

    InvalidTarget       the host or the port is invalid
    Forbidden, Loop     the address is not allowed
    ResolveError        the lookup of the name fails
    ConnectError        TCP connects to no address
    ProxyTLSError       TLS with the next proxy fails
    ProxyRefused        the next proxy refuses
    DialTimeout         a phase takes too long: `ResolveTimeout`, `ConnectTimeout`, `ProxyTimeout`
"""

from typing import ClassVar, Self

__all__ = [
    "ConnectError",
    "ConnectTimeout",
    "DialError",
    "DialTimeout",
    "Forbidden",
    "InvalidTarget",
    "Loop",
    "ProxyRefused",
    "ProxyTLSError",
    "ProxyTimeout",
    "ProxyUnreachable",
    "ResolveError",
    "ResolveTimeout",
]


class DialError(Exception):
    """The dial failed.

    reason  one line for clients and logs, without secrets
    phase   one word, for logs
    """

    phase: ClassVar[str]

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def about(self, subject: str) -> Self:
        """The same error, with `subject` before its reason."""
        return type(self)(f"{subject}: {self.reason}")


class InvalidTarget(DialError):
    """The host or the port is invalid."""

    phase = "target"


class Forbidden(DialError):
    """The guard does not allow this client to connect to the address."""

    phase = "guard"


class Loop(DialError):
    """The address is a listener of this process, or the next proxy has found a loop (RFC 5842 section 7.2)."""

    phase = "guard"


class ResolveError(DialError):
    """The name has no address."""

    phase = "resolve"


class ConnectError(DialError):
    """No address accepts the connection.

    is_local    whether only this machine is at fault: it has no descriptor or no port left, for example
    """

    phase = "connect"
    is_local = False


class ProxyTLSError(DialError):
    """The TLS handshake with the next proxy fails, or its certificate is not valid for it."""

    phase = "TLS with the proxy"


class ProxyRefused(DialError):
    """The next proxy makes no stream to the destination."""

    phase = "proxy"


class ProxyUnreachable(ProxyRefused):
    """A SOCKS proxy accepts the request and cannot reach the address. Another address of the destination may work."""


class DialTimeout(DialError):
    """A phase did not end in time."""


class ResolveTimeout(DialTimeout):
    """The name servers have not answered in time."""

    phase = "resolve"


class ConnectTimeout(DialTimeout):
    """No address has answered in time."""

    phase = "connect"


class ProxyTimeout(DialTimeout):
    """The next proxy has not answered in time."""

    phase = "proxy"
