"""The identity of a client, and its rights: user name and password, client certificate, or anonymous; access by topic."""

import logging
from collections.abc import Callable

from cryptography import x509
from cryptography.x509.oid import NameOID

from muxwsgi import Connection
from muxwsgi.proxy.doors.access import NotAdmitted
from muxwsgi.proxy.doors.htpasswd import Htpasswd
from muxwsgi_iot.acl import Acl
from muxwsgi_iot.mqtt import Connect, MQTTError, Reason
from muxwsgi_iot.options import Options

__all__ = ["Access", "Login"]

log = logging.getLogger(__name__)

_Check = Callable[[str], bool]


class Access:
    """What a user may do. `username` is None for an anonymous one."""

    def __init__(self, username: str | None, client_id: str, acl: Acl | None) -> None:
        self.username = username
        self._client_id = client_id
        self._acl = acl

    def may_write(self, topic: str) -> bool:
        """Topics of the broker itself are nobody's (section 4.7.2)."""
        if topic.startswith(("$SYS/", "$share/")):
            return False
        return self._acl is None or self._acl.allows(topic, self.username, self._client_id, write=True)

    def may_read(self, topic: str) -> bool:
        return self._acl is None or self._acl.allows(topic, self.username, self._client_id, write=False)

    def readers(self, client_id: str) -> tuple[_Check, _Check]:
        """`may_read` and `may_write`, for the client identifier that was assigned."""
        self._client_id = client_id
        return self.may_read, self.may_write


class Login:
    """Made of the options, once in each worker. Raises `OperatorError` for a file that cannot be used."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._passwords = Htpasswd(options.password_file) if options.password_file else None
        self.acl = Acl(options.acl_file) if options.acl_file else None

    @property
    def lets_nobody_in(self) -> bool:
        """Whether no way to log in is configured."""
        options = self._options
        return self._passwords is None and not options.allow_anonymous and not options.use_identity_as_username

    @property
    def lets_all_in(self) -> bool:
        """Whether a client without a name is let in."""
        return self._options.allow_anonymous

    def admit(self, packet: Connect, connection: Connection) -> Access:
        """Raises `MQTTError` for a client that is not let in."""
        username = self._name_of(packet, connection)
        return Access(username, packet.client_id, self.acl)

    def access_of(self, username: str | None) -> Access:
        """For a user of the web pages."""
        return Access(username, "", self.acl)

    def is_user(self, username: str, password: bytes) -> bool:
        """Whether the user has this password. Raises `MQTTError` (server busy) while too many are being checked."""
        if self._passwords is None:
            return False
        try:
            return self._passwords(username, password.decode())
        except UnicodeDecodeError:
            return False
        except NotAdmitted as busy:
            raise MQTTError(Reason.SERVER_BUSY, str(busy)) from None

    def _name_of(self, packet: Connect, connection: Connection) -> str | None:
        if self._options.use_identity_as_username:
            name = _identity(connection, self._options.identity_from)
            if name is not None:
                return name
        if self._passwords is None and packet.username is not None and self._options.allow_anonymous:
            return None  # nobody has a password, so a name proves nothing
        if packet.username is not None and packet.password is not None and self.is_user(packet.username, packet.password):
            return packet.username
        if packet.username is not None and self._passwords is not None:
            raise MQTTError(Reason.BAD_USER_NAME_OR_PASSWORD, "wrong user name or password")
        if packet.username is None and self._options.allow_anonymous:
            return None
        raise MQTTError(Reason.NOT_AUTHORIZED, "a login is needed")


def _identity(connection: Connection, source: str) -> str | None:
    """The name in the verified certificate of the client; None without one."""
    tls = connection.tls
    if tls is None or not tls.peer_verified or tls.peer_certificate is None:
        return None
    certificate = tls.peer_certificate
    if source == "cn":
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value) if names else None
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    for kind in (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier):
        values = found.get_values_for_type(kind)
        if values:
            return str(values[0])
    return None
