"""`LeafContexts`: the TLS contexts for interception, one for each list of ALPN ids, and the CA that signs their leaves."""

from collections.abc import Mapping
from pathlib import Path

from muxwsgi.proxy.certificates.authority import Authority, KeyType
from muxwsgi.proxy.certificates.key_log import KeyLog
from muxwsgi.proxy.certificates.leaf_context import LeafContext
from muxwsgi.proxy.certificates.leaves import Leaves
from muxwsgi.settings import CertificateFiles

__all__ = ["LeafContexts"]

#: Contexts that are kept at most, because servers can name any protocols.
CONTEXTS_AT_MOST = 16


class LeafContexts:
    """Creates contexts at their first use, and keeps them."""

    def __init__(
        self,
        authority: Authority | None,
        ca_folder: str | None,
        *,
        key_type: KeyType | None,
        own: Mapping[str, CertificateFiles] | None,
        key_log: KeyLog | None,
    ) -> None:
        """`authority` signs the leaves. If it is None, the CA in `ca_folder` (None for the default folder) is loaded at its first use.
        `own` are certificates by host, served instead of minted ones."""
        self._authority = authority
        self._ca_folder = ca_folder
        self._key_type = key_type
        self._own = own
        self._key_log = key_log
        self._leaves: Leaves | None = None
        self._contexts: dict[tuple[str, ...], LeafContext] = {}

    @property
    def has_authority(self) -> bool:
        """Whether the CA is loaded."""
        return self._authority is not None

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of `Leaves`, and how many `leaves` are kept now; zeros before the first."""
        leaves = self._leaves
        if leaves is None:
            return dict.fromkeys(("minted", "hits", "evicted", "failed", "leaves"), 0)
        return {"minted": leaves.minted, "hits": leaves.hits, "evicted": leaves.evicted, "failed": leaves.failed, "leaves": leaves.size}

    def authority(self) -> Authority:
        """The CA. Raises `OperatorError` without one."""
        if self._authority is None:
            self._authority = Authority.load(None if self._ca_folder is None else Path(self._ca_folder))
        return self._authority

    def offering(self, alpn: tuple[str, ...]) -> LeafContext:
        """The context that offers the ids `alpn`. Raises `OperatorError` without a CA."""
        context = self._contexts.get(alpn)
        if context is None:
            if self._leaves is None:
                self._leaves = Leaves(self.authority(), key_type=self._key_type)
            if len(self._contexts) >= CONTEXTS_AT_MOST:
                self._contexts.clear()
            context = self._contexts[alpn] = LeafContext(self._leaves, alpn=alpn, own=self._own, key_log=self._key_log)
        return context
