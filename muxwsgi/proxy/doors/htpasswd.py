"""Passwords in a file that `htpasswd` makes, for `Access`.

`password_hash` has the schemes. DES-crypt is refused, because only eight characters of a password count, and so are passwords in the clear.

Hashing is slow on purpose (bcrypt: 50 to 250 ms). It runs in a separate thread pool, because the hub's threads also look up names, and a
client that sends wrong passwords must not delay all lookups. Right passwords are remembered for a while, because a browser sends its
password with every request.
"""

import hmac
import logging
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import gevent
from gevent.threadpool import ThreadPool

from muxwsgi.errors import OperatorError
from muxwsgi.file_state import file_state
from muxwsgi.proxy.doors.access import NotAdmitted
from muxwsgi.proxy.doors.password_hash import is_password, what_is_wrong

__all__ = ["Htpasswd"]

log = logging.getLogger("muxwsgi.error")

#: Seconds between two looks at the file.
LOOK_AGAIN = 1.0

#: Right passwords that are remembered at most.
REMEMBERED = 1024

#: Threads that hash. One for each core of a small machine.
THREADS = 2

#: Seconds until a thread without work ends.
IDLE_THREAD = 30.0

#: Passwords that wait to be checked at most. Further ones are refused, because clients would time out before their turn.
WAITING = 64

#: Bytes of a password; a longer one is wrong.
LONGEST = 1024


class Htpasswd:
    """`Credentials` from a file, which is read again when it has changed. If it is broken then, the error is logged and the old content
    stays valid.

    checked     passwords that were hashed since the start
    """

    def __init__(self, path: str | os.PathLike[str], *, remember: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`remember` a right password for so many seconds; 0 hashes it each time. Raises `OperatorError` that names the broken line."""
        self._path = os.fspath(path)
        self._remember = remember
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        #: HMACs of right passwords, with the time until which each is remembered. Without the secret they do not reveal a password.
        self._right: OrderedDict[bytes, float] = OrderedDict()
        #: One greenlet for each password that is being checked, however many connections send it.
        self._checks: dict[bytes, gevent.Greenlet[..., bool]] = {}
        self._pool: Any = None  # made at the first check, because it belongs to the hub of the process that serves
        self.checked = 0
        self._seen = file_state(self._path)
        self._hashes = _read(self._path)
        self._look_at = clock() + LOOK_AGAIN

    def __repr__(self) -> str:
        return f"<Htpasswd {self._path!r}: {len(self._hashes)} users>"

    def __call__(self, user: str, password: str) -> bool:
        """Whether `user` has this password. Raises `NotAdmitted` (503) while too many are being checked."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_AGAIN
            self._look()
        if "\0" in password or len(password.encode()) > LONGEST:
            return False
        key = hmac.digest(self._secret, f"{user}\0{password}".encode(), "sha256")
        if self._right.get(key, now) > now:
            self._right.move_to_end(key)
            return True
        check = self._checks.get(key)
        if check is None:
            if len(self._checks) >= WAITING:
                raise NotAdmitted("too many passwords are being checked", 503, 1)
            check = self._checks[key] = gevent.spawn(self._check, self._checks, key, user, password)
        return bool(check.get())

    def _check(self, checks: "dict[bytes, gevent.Greenlet[..., bool]]", key: bytes, user: str, password: str) -> bool:
        try:
            hashes = self._hashes
            known = user in hashes
            # A password is hashed for unknown users too. Otherwise the time would tell which users exist.
            hashed = hashes[user] if known else next(iter(hashes.values()), None)
            if hashed is None:
                return False
            if self._pool is None:
                self._pool = ThreadPool(THREADS, idle_task_timeout=IDLE_THREAD)
            self.checked += 1
            right = bool(self._pool.apply(is_password, (password.encode(), hashed))) and known
            if right and self._remember > 0 and hashes is self._hashes:  # not if the file has changed meanwhile
                self._right[key] = self._clock() + self._remember
                if len(self._right) > REMEMBERED:
                    self._right.popitem(last=False)
            return right
        finally:
            del checks[key]

    def _look(self) -> None:
        """Read the file again if it has changed."""
        signature = file_state(self._path)
        if signature == self._seen:
            return
        self._seen = signature  # also of a broken file, so that the error is logged once and not once a second
        try:
            self._hashes = _read(self._path)
        except OperatorError as error:
            log.error("%s; the content that was read before stays valid", error)
            return
        self._right.clear()
        self._checks = {}  # checks that are under way end with the old content


def _read(path: str) -> dict[str, str]:
    """The hashes by user. Raises `OperatorError` that names the broken line."""
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise OperatorError(f"htpasswd: {path}: {error.strerror or error}") from error
    hashes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        where = f"htpasswd: {path}, line {number}"
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            raise OperatorError(f"{where}: it is not UTF-8") from None
        if not text or text.startswith("#"):
            continue
        user, colon, hashed = text.partition(":")
        if not colon or not user:
            raise OperatorError(f"{where}: it is not USER:HASH")
        if user in hashes:
            raise OperatorError(f"{where}: user {user!r} appears twice")
        wrong = what_is_wrong(hashed)
        if wrong is not None:
            raise OperatorError(f"{where}: the password of {user!r} is {wrong}; make it with htpasswd -B")
        hashes[user] = hashed
    return hashes
