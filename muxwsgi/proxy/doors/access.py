"""Access control: by address, by password (RFC 7617 for HTTP, RFC 1929 for SOCKS), by client certificate.

Every front door asks here, and sends the refusal in its own protocol. `credentials` checks passwords: see `muxwsgi.proxy.doors.htpasswd`.
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

#: (user, password) -> True and False for right and wrong, or the identity (None for wrong). It runs in the greenlet of the connection, and
#: may wait in gevent.
Credentials = Callable[[str, str], bool | str | None]

Network = IPv4Network | IPv6Network

#: `credentials = "Basic" 1*SP token68` (RFC 9110 section 11.4), where token68 is base64 (RFC 7617 section 2).
_BASIC = re.compile(r"basic +([A-Za-z0-9+/]+={0,2})", re.IGNORECASE)

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class NotAdmitted(PeerError):
    """The client is refused, and other credentials would not help now. `status` is 403, or 429 after too many wrong passwords, or 503
    while too many passwords are being checked.

    retry_after     seconds until the client may try again (RFC 9110 section 10.2.3), None for never
    """

    def __init__(self, reason: str, status: int = 403, retry_after: int | None = None) -> None:
        super().__init__(status, reason, () if retry_after is None else (("Retry-After", str(retry_after)),))


class CredentialsWanted(PeerError):
    """The client has to authenticate (RFC 9110 section 15.5.8). `challenge` is the value of Proxy-Authenticate."""

    def __init__(self, reason: str, challenge: str) -> None:
        super().__init__(407, reason, (("Proxy-Authenticate", challenge),))


class Access:
    """Decides which clients may use the proxy.

    A client has to pass both checks:

    - **Address.** With `allow`, only the addresses in it. Without `allow`, every address if passwords or certificates are asked for, or if
      the proxy is `open`; else loopback alone. Clients of unix sockets always pass: the permissions of the file decide there.
    - **Identity.** With `credentials` or `client_certificates`, the client has to authenticate. With both, either one is enough.

    An address with too many wrong passwords is refused for a while (`Failures`). Loopback and unix sockets are not: behind a TLS terminator
    on the same machine all clients come from there, and one client could lock out the rest.
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
        """Browsers show `realm` to their users. `allow` are networks or addresses; None means no list, and an empty list admits no address.
        `clock` returns seconds. Raises `OperatorError` for an entry that is not a network, and for a realm that cannot be sent.
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
        """Whether a client may be asked for a user and a password."""
        return self._credentials is not None

    @property
    def asks_identity(self) -> bool:
        """Whether a client has to authenticate, by password or by certificate."""
        return self._credentials is not None or self._client_certificates

    # The address

    def admits_address(self, client: Address) -> bool:
        """Whether the address `client` may use the proxy. The identity is another check."""
        address = peer_address(client)
        if address is None:
            return True
        if self._allow is not None:
            return any(address in network for network in self._allow)
        return self._open or self.asks_identity or is_on_loopback(client)

    def check_bind(self, address: Address, *, can_ask: bool = True) -> None:
        """Raises `OperatorError` if every host that reaches `address` could use the proxy, unless the operator has allowed that.

        `address` is the `getsockname` of a listening socket. `can_ask` is False for transparent binds: their clients do not know that
        there is a proxy, so they cannot be asked for a password.
        """
        if self._open or self._allow is not None or (can_ask and self.asks_identity):
            return
        listening = peer_address(address)
        if listening is not None and not listening.is_loopback:
            where = join_host_port(str(listening), int(address[1]))
            ways = "list the addresses of its clients (--allow), or open it to all (--open-proxy)"
            if can_ask:
                ways = f"ask for passwords (--proxy-auth) or certificates (--client-certificates), {ways}"
            raise OperatorError(f"bind {where}: every host that reaches it could use the proxy: {ways}")

    # The identity

    def admit(self, connection: Connection) -> None:
        """Check the address alone, for clients that cannot authenticate, such as those of a transparent door. Raises `NotAdmitted`."""
        if not self.admits_address(connection.client):
            raise NotAdmitted("this address may not use the proxy")

    def identify(self, connection: Connection, proxy_authorization: str | None) -> str | None:
        """The identity of the client of `connection`; None if no identity is asked for. `proxy_authorization` is the value of that field.

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
            raise CredentialsWanted("the proxy needs a user and a password", self._challenge)
        known = self.basic(connection.client, proxy_authorization)
        if known is None:
            raise CredentialsWanted("the user or the password is wrong", self._challenge)
        return known

    def basic(self, client: Address, value: str) -> str | None:
        """The identity that the field value `value` proves. None for wrong credentials, a scheme other than Basic, and a broken value."""
        credentials = _user_and_password(value)
        return None if credentials is None else self.password(client, *credentials)

    def password(self, client: Address, user: str, password: str) -> str | None:
        """The identity of `user` with `password`, None if they are wrong. Raises `NotAdmitted` if `client` was wrong too often."""
        if self._credentials is None:
            return None
        source = peer_address(client)
        if source is None or source.is_loopback:
            return _identity(self._credentials(user, password), user)
        self._check_failures(source)
        known = _identity(self._credentials(user, password), user)
        # Checked again, because a client can send a hundred passwords at once, before the first of them is counted as wrong.
        self._check_failures(source)
        if known is None:
            self._failures.note(source)
        return known

    def _check_failures(self, source: IPAddress) -> None:
        wait = self._failures.wait(source)
        if wait:
            raise NotAdmitted("too many wrong passwords came from this address", 429, wait)

    def certificate(self, connection: Connection) -> str | None:
        """The name in the client certificate of `connection`: its common name, else its first alternative name, else its whole subject.
        None without a verified certificate, and if certificates are not asked for.
        """
        tls = connection.tls
        if not self._client_certificates or tls is None or tls.peer_certificate is None or not tls.peer_verified:
            return None
        return certificate_identity(tls.peer_certificate)


def certificate_identity(certificate: x509.Certificate) -> str:
    """The name in a certificate: common name, first alternative name or subject. Characters that are not printable are escaped."""
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
    """Credentials of one user, for a setting such as `user:password`. The comparison takes constant time."""
    expected = user.encode(), password.encode()

    def check(given_user: str, given_password: str) -> bool:
        # Both are compared, so that the time does not tell which was wrong.
        right_user = hmac.compare_digest(given_user.encode(), expected[0])
        right_password = hmac.compare_digest(given_password.encode(), expected[1])
        return right_user and right_password

    return check


def parse_networks(networks: Iterable[str | Network]) -> tuple[Network, ...]:
    """Networks such as `10.0.0.0/8`, `fd00::/8` and `192.0.2.7`. Raises `OperatorError` that names the first invalid one."""
    found: list[Network] = []
    for network in networks:
        try:
            found.append(ip_network(network) if isinstance(network, str) else network)
        except ValueError as error:
            raise OperatorError(f"allow: {network!r} is not a network or an address: {error}") from None
    return tuple(found)


def decode_credentials(data: bytes) -> str | None:
    """A user or a password that a client sent, as text. It is UTF-8, or Latin-1 from old clients (RFC 7617 appendix B.3). None if it has
    control characters, which are not allowed in either.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return None if _CONTROLS.search(text) else text


def _identity(answer: bool | str | None, user: str) -> str | None:
    """The identity in `answer`, which `Credentials` returned for `user`."""
    if answer is True:
        return user
    return answer if isinstance(answer, str) else None


def _user_and_password(value: str) -> tuple[str, str] | None:
    match = _BASIC.fullmatch(value.strip(" \t"))
    if match is None:
        return None
    token = match[1].rstrip("=")
    try:
        # Some clients omit the padding.
        user, colon, password = base64.b64decode(token + "=" * (-len(token) % 4), validate=True).partition(b":")
    except binascii.Error:
        return None
    credentials = decode_credentials(user), decode_credentials(password)
    if not colon or not credentials[0] or credentials[1] is None:
        return None
    return credentials[0], credentials[1]


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
