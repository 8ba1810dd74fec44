"""Passwords in a file as `htpasswd` makes it, for `Access`.

`password_hash` knows the schemes. Refused are DES-crypt, of which only eight characters count, and passwords as they are.

Checking is slow on purpose (bcrypt: 50 to 250 ms), so it is done in threads of its own: those of the hub also look up names, and whoever
sends wrong passwords should not hold up everybody's. What was right is remembered for a while: a browser says it with every request.
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
from muxwsgi.proxy.doors.access import NotAdmitted
from muxwsgi.proxy.doors.password_hash import is_password, what_is_wrong

__all__ = ["Htpasswd"]

log = logging.getLogger("muxwsgi.error")

#: Seconds between two looks at the file.
LOOK_AGAIN = 1.0

#: Right passwords that are remembered at most.
REMEMBERED = 1024

#: Threads that check. One for each core of a small machine.
THREADS = 2

#: Seconds until a thread without work ends.
IDLE_THREAD = 30.0

#: Passwords that wait to be checked at most: further ones are turned away instead of waiting for longer than a client has patience.
WAITING = 64

#: Bytes of a password; a longer one is wrong.
LONGEST = 1024


class Htpasswd:
    """`Credentials` from a file, which is read again when it has changed. A file that is broken then is logged, and what it said before
    goes on counting.

    checked     passwords that were hashed, since the start
    """

    def __init__(self, path: str | os.PathLike[str], *, remember: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`remember` a right password for so many seconds; 0 checks it each time. Raises `OperatorError` naming the line that is broken."""
        self._path = os.fspath(path)
        self._remember = remember
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        #: HMACs of what was right, with the time until which that is remembered. Nobody can tell a password from them without the secret.
        self._right: OrderedDict[bytes, float] = OrderedDict()
        #: One greenlet for each password that is being checked, however many connections say it.
        self._checks: dict[bytes, gevent.Greenlet[..., bool]] = {}
        self._pool: Any = None  # made at the first check: it belongs to the hub of the process that serves
        self.checked = 0
        self._seen = self._signature()
        self._hashes = _read(self._path)
        self._look_at = clock() + LOOK_AGAIN

    def __repr__(self) -> str:
        return f"<Htpasswd {self._path!r}: {len(self._hashes)} users>"

    def __call__(self, user: str, password: str) -> bool:
        """Whether `user` has this password. Raises `NotAdmitted` (503) where too many are being checked already."""
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
            # For somebody unknown it takes as long: else the time would tell who is known.
            hashed = hashes[user] if known else next(iter(hashes.values()), None)
            if hashed is None:
                return False
            if self._pool is None:
                self._pool = ThreadPool(THREADS, idle_task_timeout=IDLE_THREAD)
            self.checked += 1
            right = bool(self._pool.apply(is_password, (password.encode(), hashed))) and known
            if right and self._remember > 0 and hashes is self._hashes:  # else the file has changed meanwhile
                self._right[key] = self._clock() + self._remember
                if len(self._right) > REMEMBERED:
                    self._right.popitem(last=False)
            return right
        finally:
            del checks[key]

    def _look(self) -> None:
        """Read the file again if it has changed."""
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature  # also of a broken file, which is complained about once and not once a second
        try:
            self._hashes = _read(self._path)
        except OperatorError as error:
            log.error("%s; what the file said before goes on counting", error)
            return
        self._right.clear()
        self._checks = {}  # those that are under way end with what they began with

    def _signature(self) -> tuple[int, int, int] | None:
        """What is another after somebody has written the file, or its permissions; None where it cannot be found."""
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_ctime_ns, status.st_size, status.st_ino


def _read(path: str) -> dict[str, str]:
    """The hashes by user. Raises `OperatorError` naming the line that is broken."""
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
            raise OperatorError(f"{where}: user {user!r} is there twice")
        wrong = what_is_wrong(hashed)
        if wrong is not None:
            raise OperatorError(f"{where}: the password of {user!r} is {wrong}; make it with htpasswd -B")
        hashes[user] = hashed
    return hashes
