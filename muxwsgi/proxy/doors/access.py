"""Who may use the proxy: by address, by password (RFC 7617, and RFC 1929 of SOCKS), by client certificate.

Every front door asks here, and says the refusal in its own words. How passwords are kept is the business of what is given as `credentials`:
see `muxwsgi.proxy.doors.htpasswd`.
"""

import base64
import binascii
import hmac
import re
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from cryptography import x509

from muxwsgi.errors import OperatorError, PeerError
from muxwsgi.names import IPAddress, join_host_port
from muxwsgi.proxy.doors.failures import Failures
from muxwsgi.wire.connection import Address, Connection
from muxwsgi.wire.peer import is_on_loopback, peer_address

__all__ = ["Access", "Credentials", "CredentialsWanted", "Network", "NotAdmitted", "certificate_identity", "one_user", "parse_networks"]

#: (user, password) -> whether they are right, or who that is. Called in the greenlet of the connection: it may wait as gevent waits.
Credentials = Callable[[str, str], bool | str | None]

Network = IPv4Network | IPv6Network

#: `credentials = "Basic" 1*SP token68` (RFC 9110 section 11.4), where token68 is base64 (RFC 7617 section 2).
_BASIC = re.compile(r"basic +([A-Za-z0-9+/]+={0,2})", re.IGNORECASE)

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class NotAdmitted(PeerError):
    """Nothing that the client could say would help, at least not now. `status` is 403, or 429 after too many wrong passwords, or 503 where
    too many are being checked.

    retry_after     seconds until it may try again (RFC 9110 section 10.2.3), None for never
    """

    def __init__(self, reason: str, status: int = 403, retry_after: int | None = None) -> None:
        super().__init__(status, reason)
        self.retry_after = retry_after

    @property
    def fields(self) -> list[tuple[str, str]]:
        """What belongs into the head of the response."""
        return [] if self.retry_after is None else [("Retry-After", str(self.retry_after))]


class CredentialsWanted(PeerError):
    """The client has to say who it is (RFC 9110 section 15.5.8). `challenge` is the value of Proxy-Authenticate."""

    def __init__(self, reason: str, challenge: str) -> None:
        super().__init__(407, reason)
        self.challenge = challenge

    @property
    def fields(self) -> list[tuple[str, str]]:
        """What belongs into the head of the response."""
        return [("Proxy-Authenticate", self.challenge)]


class Access:
    """Who may use the proxy.

    An address and somebody behind it are asked for separately, and both have to do:

    - **Address.** Those in `allow`, where it is given. Without it everybody where passwords or certificates are asked for, or where the
      proxy is `open`; else loopback alone. A list of addresses says nothing of unix sockets: who may connect there is up to the
      permissions of the file.
    - **Identity.** With `credentials` or `client_certificates`, one of the two has to be shown; with both, either.

    Who answers wrongly too often is not asked again for a while (`Failures`). That does not hold for loopback and unix sockets: behind a
    TLS terminator on the same machine everybody comes from there, and one of them could lock out the rest.
    """

    def __init__(
        self,
        credentials: Credentials | None = None,
        *,
        realm: str = "muxwsgi",
        allow: Iterable[str | Network] | None = None,
        client_certificates: bool = False,
        open: bool = False,
        failures: Failures | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`realm` is shown to people by their browser. `allow` are networks or addresses; None for no list, while an empty one admits
        nobody. `clock` counts seconds. Raises `OperatorError` for what is no network, and for a realm that cannot be sent.
        """
        if not realm.isascii() or not realm.isprintable():
            raise OperatorError(f"realm: {realm!r} is not printable ASCII")
        quoted = realm.replace("\\", "\\\\").replace('"', '\\"')
        self._challenge = f'Basic realm="{quoted}", charset="UTF-8"'
        self._credentials = credentials
        self._allow = None if allow is None else parse_networks(allow)
        self._client_certificates = client_certificates
        self._open = open
        self._failures = Failures(clock=clock) if failures is None else failures

    @property
    def asks_password(self) -> bool:
        """Whether a client may have to say a user and a password."""
        return self._credentials is not None

    @property
    def asks_identity(self) -> bool:
        """Whether a client has to say who it is in one way or the other."""
        return self._credentials is not None or self._client_certificates

    # The address

    def admits_address(self, client: Address) -> bool:
        """Whether somebody at `client` may use the proxy, as far as the address goes."""
        address = peer_address(client)
        if address is None:
            return True
        if self._allow is not None:
            return any(address in network for network in self._allow)
        return self._open or self.asks_identity or is_on_loopback(client)

    def check_bind(self, address: Address, *, can_ask: bool = True) -> None:
        """Raises `OperatorError` where anybody could use the proxy at `address`, what `getsockname` says of a listening socket, and
        nobody has said that this is wanted.

        `can_ask` is False for binds whose clients know of no proxy (transparent ones): they are asked for no password.
        """
        if self._open or self._allow is not None or (can_ask and self.asks_identity):
            return
        listening = peer_address(address)
        if listening is not None and not listening.is_loopback:
            where = join_host_port(str(listening), int(address[1]))
            ways = "list the addresses of its clients (--allow), or say that it is to be open (--open-proxy)"
            if can_ask:
                ways = f"ask for passwords (--proxy-auth) or certificates (--client-certificates), {ways}"
            raise OperatorError(f"bind {where}: anybody who reaches it could use the proxy: {ways}")

    # The identity

    def admit(self, connection: Connection) -> None:
        """For clients that cannot say who they are, as those of a transparent door: raises `NotAdmitted` by the address alone."""
        if not self.admits_address(connection.client):
            raise NotAdmitted("this address may not use the proxy")

    def identify(self, connection: Connection, proxy_authorization: str | None) -> str | None:
        """Who is on `connection`, who sent the field value `proxy_authorization`; None where nobody has to say.

        Raises `NotAdmitted` and `CredentialsWanted`.
        """
        self.admit(connection)
        if not self.asks_identity:
            return None
        shown = self.certificate(connection)
        if shown is not None:
            return shown
        if self._credentials is None:
            raise NotAdmitted("a client certificate is needed to use the proxy")
        if proxy_authorization is None:
            raise CredentialsWanted("the proxy wants to know who you are", self._challenge)
        known = self.basic(connection.client, proxy_authorization)
        if known is None:
            raise CredentialsWanted("the user or the password is wrong", self._challenge)
        return known

    def basic(self, client: Address, value: str) -> str | None:
        """Who the field value `value` proves to be there, None for nobody. Another scheme than Basic and a broken value are nobody too."""
        said = _user_and_password(value)
        return None if said is None else self.password(client, *said)

    def password(self, client: Address, user: str, password: str) -> str | None:
        """Who `user` with `password` is, None where that is wrong. Raises `NotAdmitted` where `client` was wrong too often."""
        if self._credentials is None:
            return None
        source = peer_address(client)
        if source is None or source.is_loopback:
            return _identity(self._credentials(user, password), user)
        self._check_failures(source)
        known = _identity(self._credentials(user, password), user)
        # Again: who asked a hundred times at once, while none was answered yet, learns no more than who asked one by one.
        self._check_failures(source)
        if known is None:
            self._failures.note(source)
        return known

    def _check_failures(self, source: IPAddress) -> None:
        wait = self._failures.wait(source)
        if wait:
            raise NotAdmitted("too many wrong passwords came from this address", 429, wait)

    def certificate(self, connection: Connection) -> str | None:
        """The common name of the client certificate that `connection` was opened with, else its first alternative name, else its whole
        subject; None without one that was verified, and where certificates are not asked for.
        """
        tls = connection.tls
        if not self._client_certificates or tls is None or tls.peer_certificate is None or not tls.peer_verified:
            return None
        return certificate_identity(tls.peer_certificate)


def certificate_identity(certificate: x509.Certificate) -> str:
    """The name that a certificate's owner goes by, with whatever is not printable in it escaped."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if names:
        name = names[0].value
        return _printable(name if isinstance(name, str) else name.decode("latin-1"))
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        alternatives = None
    for alternative in alternatives or ():
        if isinstance(alternative, (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier)):
            return _printable(alternative.value)
        if isinstance(alternative, x509.IPAddress):
            return str(alternative.value)
    return _printable(certificate.subject.rfc4514_string())


def one_user(user: str, password: str) -> Credentials:
    """Credentials of one user, for a setting such as `user:password`. Comparing takes as long for a wrong one as for the right one."""
    expected = user.encode(), password.encode()

    def check(said_user: str, said_password: str) -> bool:
        # Both are compared, so that the time does not tell which was wrong.
        right_user = hmac.compare_digest(said_user.encode(), expected[0])
        right_password = hmac.compare_digest(said_password.encode(), expected[1])
        return right_user and right_password

    return check


def parse_networks(networks: Iterable[str | Network]) -> tuple[Network, ...]:
    """`10.0.0.0/8`, `fd00::/8`, `192.0.2.7` and the like. Raises `OperatorError` naming the one that is none."""
    found: list[Network] = []
    for network in networks:
        try:
            found.append(ip_network(network) if isinstance(network, str) else network)
        except ValueError as error:
            raise OperatorError(f"allow: {network!r} is no network or address: {error}") from None
    return tuple(found)


def decode_credentials(data: bytes) -> str | None:
    """A user or a password as a client sent it: in UTF-8, or else Latin-1, which old ones send (RFC 7617 appendix B.3). None where control
    characters are in it, which neither may have.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return None if _CONTROLS.search(text) else text


def _identity(answer: bool | str | None, user: str) -> str | None:
    """What `Credentials` answered about `user`."""
    if answer is True:
        return user
    return answer if isinstance(answer, str) else None


def _user_and_password(value: str) -> tuple[str, str] | None:
    match = _BASIC.fullmatch(value.strip(" \t"))
    if match is None:
        return None
    token = match[1].rstrip("=")
    try:
        # Some leave the padding out.
        user, colon, password = base64.b64decode(token + "=" * (-len(token) % 4), validate=True).partition(b":")
    except binascii.Error:
        return None
    said = decode_credentials(user), decode_credentials(password)
    if not colon or not said[0] or said[1] is None:
        return None
    return said[0], said[1]


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
