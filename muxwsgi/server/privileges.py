"""Users and groups that an operator names. This module imports no gevent."""

import grp
import pwd

from muxwsgi.errors import OperatorError

__all__ = ["group_id", "user_id"]


def user_id(text: str, where: str) -> int:
    """The number of a user that is given by name or number. Raises `OperatorError`, which begins with `where`."""
    if text.isascii() and text.isdigit():
        return _number(text, where)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise OperatorError(f"{where}: there is no user {text!r}") from None


def group_id(text: str, where: str) -> int:
    """The number of a group that is given by name or number. Raises `OperatorError`, which begins with `where`."""
    if text.isascii() and text.isdigit():
        return _number(text, where)
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        raise OperatorError(f"{where}: there is no group {text!r}") from None


def _number(text: str, where: str) -> int:
    number = int(text)
    if number >= 2**32 - 1:  # the largest number means "unchanged" to the kernel
        raise OperatorError(f"{where}: {text} is too large")
    return number
