"""Leaves: certificates that are minted for the hosts that clients ask for, and cached.

All leaves of a process share one random key, which is never written to a file. Making a key costs as much as signing, and separate keys in
the same memory would not protect the leaves better.

Names come from peers, so they are hostile until `canonical` has validated them. They are used in certificates and, escaped, in messages,
but never in file names.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from time import time

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from gevent.event import AsyncResult
from OpenSSL.crypto import FILETYPE_ASN1, X509, load_certificate

from muxwsgi.names import canonical, is_name
from muxwsgi.proxy.certificates.authority import Authority, Key, KeyType
from muxwsgi.proxy.certificates.leaf_template import LeafTemplate
from muxwsgi.wire.tls.development_certificate import BACKDATED

__all__ = ["Leaf", "Leaves", "MintingFailed"]

LIFETIME = timedelta(days=90)
RENEW_BEFORE = timedelta(days=1)

#: Strong enough for 90 days, and three times as fast in each handshake as 3072.
RSA_BITS = 2048

#: Characters of a common name or organization (RFC 5280 appendix A.1).
NAME_LIMIT = 64

#: Names copied from an upstream's certificate at most. The largest public certificates have 100 to 250.
MIMICKED_NAMES = 250


class MintingFailed(Exception):
    """The authority could not sign. `__cause__` is the error."""


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A minted certificate.

    certificate, openssl    the same certificate, for cryptography and for pyOpenSSL
    names                   the host names and addresses that were asked for
    not_after               its expiry
    renew_at                when it is replaced, in seconds since the epoch
    session_id              the session id context: only a leaf for the same names resumes its sessions (32 bytes)
    """

    certificate: x509.Certificate
    openssl: X509
    names: tuple[str, ...]
    not_after: datetime
    renew_at: float
    session_id: bytes


#: The key of the cache: the names, and the certificate to mimic.
_Wanted = tuple[tuple[str, ...], x509.Certificate | None]


class Leaves:
    """Mints leaves, and caches the `size` most recently used ones.

    Attributes:
        authority: the CA that signs.
        key: the key of all leaves.
        minted, hits, evicted, failed: numbers of leaves made, found in the cache, dropped from it, and of failures to sign.
    """

    def __init__(
        self, authority: Authority, *, key_type: KeyType | None = None, size: int = 1000, clock: Callable[[], float] = time
    ) -> None:
        """`key_type` None means the type of the authority's key, because a client that does not support ECDSA could verify neither. `clock`
        returns seconds since the epoch.
        """
        if size < 1:
            raise ValueError("the cache needs room for one leaf at least")
        self.authority = authority
        key_type = key_type or authority.key_type
        self.key: Key = ec.generate_private_key(ec.SECP256R1()) if key_type == "ec" else rsa.generate_private_key(65537, RSA_BITS)
        self.minted = self.hits = self.evicted = self.failed = 0
        self._limit = size
        self._clock = clock
        self._kept: OrderedDict[_Wanted, Leaf] = OrderedDict()
        self._minting: dict[_Wanted, AsyncResult] = {}
        self._template = LeafTemplate(authority, self.key)

    @property
    def size(self) -> int:
        """Number of leaves kept."""
        return len(self._kept)

    def get(self, host: str, also: tuple[str, ...] = (), like: x509.Certificate | None = None) -> Leaf:
        """A leaf for `host` and the names or addresses in `also`, without wildcards.

        `like` is a certificate to mimic: its common name, organization and names are copied, without malformed ones. Key and dates are the
        leaf's. Pass only a verified certificate, because clients trust the names in the leaf.

        If several greenlets ask for the same leaf at once, one mints it and the others wait. Raises `InvalidName`. Raises `MintingFailed`
        in all greenlets that waited; the next call tries again.
        """
        wanted = (_distinct(host, also), like)
        while True:
            leaf = self._kept.get(wanted)
            if leaf is not None and self._clock() < leaf.renew_at:
                self._kept.move_to_end(wanted)
                self.hits += 1
                return leaf
            others = self._minting.get(wanted)
            if others is None:
                return self._mint_for_all(wanted)
            minted: Leaf | None = others.get()
            if minted is not None:
                self.hits += 1
                return minted
            # The greenlet that minted was killed or hit a timeout. So this one tries again.

    def _mint_for_all(self, wanted: _Wanted) -> Leaf:
        # `Authority` signs without a switch of greenlets. An authority with a remote key would switch.
        result = self._minting[wanted] = AsyncResult()
        try:
            leaf = self._mint(*wanted)
            self._keep(wanted, leaf)
            result.set(leaf)
            return leaf
        except Exception as error:
            self.failed += 1
            failure = MintingFailed(f"no leaf for {wanted[0][0]}: {error}")
            failure.__cause__ = error
            result.set_exception(failure)
            raise failure
        finally:
            if not result.ready():
                result.set(None)
            del self._minting[wanted]

    def _keep(self, wanted: _Wanted, leaf: Leaf) -> None:
        self.minted += 1
        self._kept[wanted] = leaf
        self._kept.move_to_end(wanted)
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)
            self.evicted += 1

    def _mint(self, names: tuple[str, ...], like: x509.Certificate | None) -> Leaf:
        authority = self.authority
        now = datetime.fromtimestamp(self._clock(), UTC).replace(microsecond=0)
        ends = min(now + LIFETIME, authority.ends)
        if ends <= now:
            raise ValueError(f"the CA expired on {authority.ends:%Y-%m-%d}")
        subject, alternative = _named(names, like)
        begins = max(now - BACKDATED, authority.certificate.not_valid_before_utc)
        der = self._template.mint(subject, alternative, x509.random_serial_number(), begins, ends)
        renew_at = max(ends - RENEW_BEFORE, now + (ends - now) / 2)  # the CA may have less than a day left
        return Leaf(
            certificate=x509.load_der_x509_certificate(der),
            openssl=load_certificate(FILETYPE_ASN1, der),
            names=names,
            not_after=ends,
            renew_at=renew_at.timestamp(),
            session_id=sha256("\0".join(names).encode()).digest(),
        )


def _distinct(host: str, also: tuple[str, ...]) -> tuple[str, ...]:
    if not also:
        return (canonical(host),)
    return tuple(dict.fromkeys(canonical(name) for name in (host, *also)))


def _general(name: str) -> x509.GeneralName:
    if name[-1].isdigit() or ":" in name:
        try:
            return x509.IPAddress(ip_address(name))
        except ValueError:
            pass  # "host-1"
    return x509.DNSName(name)


def _named(names: tuple[str, ...], like: x509.Certificate | None) -> tuple[x509.Name, x509.SubjectAlternativeName]:
    alternative = [_general(name) for name in names]
    if like is None:
        return _subject({NameOID.COMMON_NAME: names[0]}), x509.SubjectAlternativeName(alternative)
    organization, common = _first(like, NameOID.ORGANIZATION_NAME), _first(like, NameOID.COMMON_NAME)
    subject = _subject({NameOID.ORGANIZATION_NAME: organization, NameOID.COMMON_NAME: common or names[0]})
    return subject, x509.SubjectAlternativeName(list(dict.fromkeys(alternative + _names_of(like))))


def _first(like: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    try:
        values = like.subject.get_attributes_for_oid(oid)
    except ValueError:
        return ""
    return str(values[0].value) if values else ""


def _subject(shown: dict[x509.ObjectIdentifier, str]) -> x509.Name:
    """The attributes that are not too long. A common name is optional, and current clients ignore it (RFC 9525 section 2)."""
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in shown.items() if 0 < len(value) <= NAME_LIMIT])


def _names_of(like: x509.Certificate) -> list[x509.GeneralName]:
    try:
        names = like.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return []
    return [name for name in list(names)[:MIMICKED_NAMES] if _is_name(name)]


def _is_name(name: x509.GeneralName) -> bool:
    if isinstance(name, x509.DNSName):
        return is_name(name.value.removeprefix("*."))
    return isinstance(name, x509.IPAddress)
