"""The master's part of the admin bind and the control socket: it opens their sockets, and makes what their process needs. No gevent."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from muxwsgi.admin.process import AdminServing
from muxwsgi.cli.options import ALL
from muxwsgi.errors import OperatorError
from muxwsgi.names import address_of
from muxwsgi.observe.exposition import check_installed
from muxwsgi.record import record
from muxwsgi.server.bind_text import parse_bind
from muxwsgi.server.binds import Listening, listen_on
from muxwsgi.server.board import Board
from muxwsgi.server.introductions import Introductions
from muxwsgi.server.page import SharedPage
from muxwsgi.setting import from_options
from muxwsgi.settings import AdminSettings, BindSettings

__all__ = ["Admin", "wanted"]

BACKLOG = 128

#: The shortest token, characters.
TOKEN = 16

#: Parts of the names of options whose values may be secrets. They are not shown.
_SECRET = ("auth", "token", "password", "secret", "env", "logconfig_dict")

#: User and password in a URL, such as that of `--upstream-proxy`.
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")

Values = Mapping[str, Any]


@record()
class Admin:
    """What the options ask for, with open sockets.

    settings        the options
    admin, control  the listening sockets; None without one
    token           what clients of the admin bind must send; None: nothing
    configuration   the options that differ from their defaults, as they are shown
    log_level       of error logs
    """

    settings: AdminSettings
    admin: Listening | None
    control: Listening | None
    token: str | None
    configuration: Mapping[str, Any]
    log_level: str

    @classmethod
    def opened(cls, values: Values, kept: Sequence[Listening]) -> "Admin":
        """What `values` ask for. Sockets in `kept` are used again. Raises `OperatorError`."""
        settings, token, binds = wanted(values)
        opened = listen_on(binds, BACKLOG, kept=kept)
        admin = opened.pop(0) if settings.admin_bind is not None else None
        control = opened.pop(0) if settings.control_socket is not None else None
        return cls(settings, admin, control, token, shown(values), values["log_level"])

    def listening(self) -> list[Listening]:
        """The sockets that are open."""
        return [each for each in (self.admin, self.control) if each is not None]

    def close(self, kept: "Admin | None" = None) -> None:
        """Close the sockets that `kept` does not use."""
        used = [] if kept is None else [each.socket for each in kept.listening()]
        for each in self.listening():
            if each.socket not in used:
                each.close()

    def serving(self, page: SharedPage, board: Board, introductions: Introductions) -> AdminServing | None:
        """What the admin process needs; None if nothing is to be served."""
        if not self.settings.watched:
            return None
        return AdminServing(
            admin=self.admin,
            control=self.control,
            token=self.token,
            configuration=self.configuration,
            log_level=self.log_level,
            page=page,
            board=board,
            introductions=introductions,
        )


def wanted(values: Values) -> tuple[AdminSettings, str | None, list[BindSettings]]:
    """What `values` ask for: the settings, the token, and the binds, that of the admin bind first. Raises `OperatorError`."""
    settings = from_options(AdminSettings, values)
    token = None if settings.admin_token_file is None else _token_in(settings.admin_token_file)
    binds = []
    if settings.admin_bind is not None:
        check_installed()
        binds.append(_admin_bind(settings.admin_bind, token))
    elif token is not None:
        raise OperatorError("admin_token_file: there is no --admin-bind that could ask for the token")
    if settings.control_socket is not None:
        binds.append(BindSettings(host="", port=0, path=os.path.abspath(settings.control_socket), mode=0o600))
    return settings, token, binds


def _admin_bind(text: str, token: str | None) -> BindSettings:
    try:
        bind = parse_bind(text)
    except OperatorError as error:
        raise OperatorError(f"admin_bind: {error}") from error
    if bind.path is not None:
        return bind if bind.mode is not None else BindSettings(host="", port=0, path=os.path.abspath(bind.path), mode=0o600)
    address = address_of(bind.host)
    if bind.fd is not None or (token is None and (address is None or not address.is_loopback) and bind.host != "localhost"):
        raise OperatorError(
            f"admin_bind: {text}: without --admin-token-file it is unix:PATH, or an address of this machine alone such as 127.0.0.1:9000"
        )
    return bind


def _token_in(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"admin_token_file: {path}: {getattr(error, 'strerror', None) or 'it is not ASCII'}") from error
    if mode & 0o007:
        raise OperatorError(f"admin_token_file: {path}: every user may read it (chmod o= {path})")
    if len(token) < TOKEN or not token.isprintable() or " " in token:
        raise OperatorError(f"admin_token_file: {path}: a token has at least {TOKEN} characters, and no spaces")
    return token


def shown(values: Values) -> dict[str, Any]:
    """The options that differ from their defaults, without secrets."""
    found = {}
    for option in ALL:
        value = values[option.name]
        if value != option.default and value not in (None, []):
            secret = any(part in option.name for part in _SECRET) and not isinstance(value, bool)
            found[option.name] = "(not shown)" if secret else _without_userinfo(value)
    return found


def _without_userinfo(value: Any) -> Any:
    if isinstance(value, str):
        return _USERINFO.sub("(not shown)@", value)
    return [_without_userinfo(each) for each in value] if isinstance(value, list | tuple) else value
