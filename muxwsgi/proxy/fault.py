"""`Fault`: why the proxy cannot serve a client, with the phase that failed.

Each front door sends it in its own protocol: HTTP as a status and a text (RFC 9110 section 15.6), SOCKS as a reply code. An established
tunnel just ends.
"""

from enum import Enum

from muxwsgi.dial import errors

__all__ = ["Fault", "Phase"]


class Phase(Enum):
    """The phase that failed."""

    TARGET = "target"  # the target is not a host and a port
    POLICY = "policy"  # the client may not connect to the destination
    LOOP = "loop"  # the destination is this proxy (RFC 5842 section 7.2)
    RESOLVE = "resolve"  # the name has no address
    CONNECT = "connect"  # no address takes the connection
    TLS = "tls"  # the handshake or the verification failed
    CHAIN = "chain"  # the next proxy refused
    SEND = "send"  # the request could not be sent
    HEAD = "head"  # the response's head is missing, broken or not HTTP
    BODY = "body"  # the response's body is incomplete
    TIMEOUT = "timeout"  # a phase took too long


_STATUSES = {Phase.TARGET: 400, Phase.POLICY: 403, Phase.LOOP: 508, Phase.TIMEOUT: 504}


#: The phase for each error of a dial.
_PHASES = {
    errors.InvalidTarget: Phase.TARGET,
    errors.Forbidden: Phase.POLICY,
    errors.Loop: Phase.LOOP,
    errors.ResolveError: Phase.RESOLVE,
    errors.ConnectError: Phase.CONNECT,
    errors.ProxyTLSError: Phase.TLS,
    errors.ProxyRefused: Phase.CHAIN,
    errors.ProxyUnreachable: Phase.CHAIN,
    errors.ResolveTimeout: Phase.TIMEOUT,
    errors.ConnectTimeout: Phase.TIMEOUT,
    errors.ProxyTimeout: Phase.TIMEOUT,
}


class Fault(Exception):
    """`reason` is one line for the client and the logs, without secrets."""

    def __init__(self, phase: Phase, reason: str) -> None:
        super().__init__(reason)
        self.phase = phase
        self.reason = reason

    @classmethod
    def of_dial(cls, error: errors.DialError) -> "Fault":
        """The fault for a dial that failed."""
        return cls(_PHASES[type(error)], error.reason)

    @property
    def status(self) -> int:
        """The HTTP status for this fault."""
        return _STATUSES.get(self.phase, 502)
