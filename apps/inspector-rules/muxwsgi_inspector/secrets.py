"""Secrets in bodies: what looks like a key that should not travel. Bodies are looked at as they pass, and never held back."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

__all__ = ["KINDS", "Finding", "SecretScanner"]

#: Bytes of a block that are looked at again with the next one: a secret may lie across both. No kind of secret is longer.
OVERLAP = 256

#: Findings of one kind in one body that are told; more of the same say nothing new.
TOLD_AT_MOST = 5

#: What the makers of these keys document as their form.
KINDS: Mapping[str, re.Pattern[bytes]] = {
    "aws-access-key": re.compile(rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "github-token": re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{36}\b"),
    "google-api-key": re.compile(rb"\bAIza[A-Za-z0-9_-]{35}\b"),
    "slack-token": re.compile(rb"\bxox[abpr]-[A-Za-z0-9-]{10,72}"),
    "stripe-key": re.compile(rb"\b[sr]k_live_[A-Za-z0-9]{24,99}\b"),
    "jwt": re.compile(rb"\beyJ[A-Za-z0-9_-]{10,80}\.eyJ[A-Za-z0-9_-]{10,80}"),
    "private-key": re.compile(rb"-----BEGIN (?:RSA |EC |OPENSSH |ENCRYPTED )?PRIVATE KEY-----"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A secret was seen. `shown` is its beginning alone: a report must not be the next leak. `at` counts bytes of the body."""

    kind: str
    shown: str
    at: int


class SecretScanner:
    """Looks for all kinds at once."""

    def __init__(self, more: Mapping[str, re.Pattern[bytes]] | None = None) -> None:
        self._kinds = {**KINDS, **(more or {})}

    def find(self, data: bytes) -> list[Finding]:
        """All that is in `data`."""
        findings: list[Finding] = []
        for _ in self.watch((data,), findings.append):
            pass
        return findings

    def watch(self, pieces: Iterable[bytes], report: Callable[[Finding], None]) -> Iterator[bytes]:
        """`pieces` as they are, and a report of each secret that passes."""
        tail = b""
        passed = 0
        told: dict[str, set[bytes]] = {}
        for piece in pieces:
            window = tail + piece
            start = passed - len(tail)
            for kind, pattern in self._kinds.items():
                seen = told.setdefault(kind, set())
                for match in pattern.finditer(window):
                    # One that ends in the tail was told with the block before, unless it has grown.
                    if match.end() > len(tail) and match[0] not in seen and len(seen) < TOLD_AT_MOST:
                        seen.add(match[0])
                        report(Finding(kind, match[0][:8].decode("latin-1") + "...", start + match.start()))
            passed += len(piece)
            tail = window[-OVERLAP:]
            yield piece
