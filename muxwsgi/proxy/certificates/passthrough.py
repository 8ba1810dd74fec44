"""The hosts whose TLS is passed through without interception: hosts in a list, and learned hosts, whose clients refuse leaves.

Applications with certificate pinning refuse a leaf with an alert, even if the system trusts the CA. They work again once the host is
learned, after some refusals. Learning is off by default, because a client could refuse a few leaves on purpose, and then the host would not
be intercepted for any client until it is forgotten.

This module does no I/O, and its clock is a parameter.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic

from muxwsgi.errors import OperatorError
from muxwsgi.names import Breadth, HostPatterns, InvalidName, canonical, parse_pattern

__all__ = ["CERTIFICATE_ALERTS", "PassThrough", "alert"]

#: Alerts of clients that refuse a certificate (RFC 8446 section 6.2).
CERTIFICATE_ALERTS = frozenset(
    {
        "bad_certificate",
        "unsupported_certificate",
        "certificate_revoked",
        "certificate_expired",
        "certificate_unknown",
        "unknown_ca",
    }
)

#: OpenSSL's text for an alert, which `HandshakeError` has: "tlsv1 alert unknown ca", "ssl/tls alert bad certificate".
_ALERT = re.compile(r"\balert ([a-z]+(?: [a-z]+)*)")


def alert(reason: str) -> str | None:
    """The alert in the text of a `HandshakeError`, spelled as in RFC 8446; None if the handshake failed without an alert."""
    found = _ALERT.search(reason.lower())
    return found[1].replace(" ", "_") if found else None


@dataclass(slots=True)
class _Refusals:
    count: int
    recent: deque[float]  # of the last `learn_after` that were certificate alerts


class PassThrough:
    """A list of host patterns, and the learned hosts.

    Attributes:
        rejections: number of leaves that clients refused.
        learned: number of times that a host was learned.
        forgotten: number of hosts whose count was dropped to stay within `size`.
    """

    def __init__(
        self,
        patterns: Iterable[str] = (),
        *,
        learn_after: int | None = None,
        window: float = 600.0,
        learn_for: float = 86400.0,
        size: int = 1000,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`patterns` are hosts and addresses, `*.example.com` for all hosts that end in `.example.com`, and `/regex/`, which is searched in
        the canonical form of the host. Raises `OperatorError` for an invalid one.

        A host whose leaf was refused `learn_after` times within `window` seconds is passed through for `learn_for` seconds. With None no
        host is learned. `size` limits the hosts that are counted, and those that are learned.
        """
        if learn_after is not None and learn_after < 1:
            raise OperatorError(f"learn_after: {learn_after} is less than 1")
        if window <= 0 or learn_for <= 0 or size < 1:
            raise OperatorError("window, learn_for and size must be more than 0")
        self.rejections = self.learned = self.forgotten = 0
        self._learn_after = learn_after
        self._window = window
        self._learn_for = learn_for
        self._size = size
        self._clock = clock
        self._patterns = HostPatterns()
        self._expressions: list[re.Pattern[str]] = []
        for pattern in patterns:
            self._add(pattern)
        self._refusals: OrderedDict[str, _Refusals] = OrderedDict()  # the last refused host is the last
        self._until: OrderedDict[str, float] = OrderedDict()  # the first learned host is the first, and is forgotten first

    def covers(self, host: str) -> bool:
        """Whether TLS for `host` is passed through. False for an invalid host."""
        if not (self._patterns or self._expressions or self._until):
            return False
        try:
            name = canonical(host)
        except InvalidName:
            return False
        return self._listed(name) or self._is_learned(name)

    def rejected(self, host: str, reason: str) -> bool:
        """Count a client that refused the leaf for `host`. Returns whether the host was learned.

        `reason` is the text of the `HandshakeError`. Every reason is counted, but only alerts about the certificate lead to learning:
        clients that go away, or use another version, would do that without the proxy too. An invalid host is not counted.
        """
        try:
            name = canonical(host)
        except InvalidName:
            return False
        self.rejections += 1
        refusals = self._refusals.get(name)
        if refusals is None:
            refusals = self._refusals[name] = _Refusals(0, deque(maxlen=self._learn_after or 0))
            if len(self._refusals) > self._size:
                self._refusals.popitem(last=False)
                self.forgotten += 1
        self._refusals.move_to_end(name)
        refusals.count += 1
        if self._learn_after is None or alert(reason) not in CERTIFICATE_ALERTS or self._is_learned(name):
            return False
        now = self._clock()
        refusals.recent.append(now)
        if len(refusals.recent) < self._learn_after or now - refusals.recent[0] > self._window:
            return False
        refusals.recent.clear()
        self._until[name] = now + self._learn_for
        if len(self._until) > self._size:
            self._until.popitem(last=False)
        self.learned += 1
        return True

    @property
    def rejections_by_host(self) -> Mapping[str, int]:
        """The number of refusals for each host that is still counted."""
        return {host: refusals.count for host, refusals in self._refusals.items()}

    @property
    def learned_hosts(self) -> Mapping[str, float]:
        """The learned hosts, and the seconds until each is forgotten."""
        now = self._clock()
        return {host: until - now for host, until in self._until.items() if until > now}

    def _add(self, pattern: str) -> None:
        if len(pattern) > 2 and pattern.startswith("/") and pattern.endswith("/"):
            try:
                self._expressions.append(re.compile(pattern[1:-1], re.IGNORECASE))
            except re.error as error:
                raise OperatorError(f"pass-through: {pattern!a} is not a regular expression: {error}") from None
            return
        try:
            self._patterns.add(parse_pattern(pattern, Breadth.BELOW))
        except InvalidName:
            raise OperatorError(f"pass-through: {pattern!a} is neither a host, an address, *.domain nor /regex/") from None

    def _listed(self, name: str) -> bool:
        return self._patterns.find(name) is not None or any(expression.search(name) for expression in self._expressions)

    def _is_learned(self, name: str) -> bool:
        until = self._until.get(name)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self._until[name]
        return False
