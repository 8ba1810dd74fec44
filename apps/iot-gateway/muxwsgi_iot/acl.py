"""`Acl`: who may read and write which topics, in the format of mosquitto's `acl_file`.

    topic read public/#
    user alice
    topic readwrite home/#
    topic deny home/safe
    pattern write devices/%u/#

Lines before the first `user` are for clients without a name. A pattern is for all; %u is the user name and %c the client identifier. What
no line allows is denied, and a `deny` that matches wins over all other lines. Levels are compared one by one, so a name that contains
'/', '+' or '#' opens nothing.
"""

import logging
import time
from collections.abc import Callable

from muxwsgi.errors import OperatorError
from muxwsgi.file_state import file_state
from muxwsgi_iot.mqtt import MQTTError
from muxwsgi_iot.mqtt.text import check_filter

__all__ = ["Acl"]

log = logging.getLogger(__name__)

#: Seconds between two looks at the file.
_LOOK_AGAIN = 1.0

_ACCESS = {"read": (True, False), "write": (False, True), "readwrite": (True, True), "deny": (False, False)}


class _Rule:
    __slots__ = ("denies", "levels", "reads", "writes")

    def __init__(self, access: str, topic_filter: str) -> None:
        self.reads, self.writes = _ACCESS[access]
        self.denies = access == "deny"
        self.levels = topic_filter.split("/")

    def covers(self, levels: list[str], username: str | None, client_id: str, is_pattern: bool) -> bool:
        if levels[0].startswith("$") and self.levels[0] in ("+", "#"):
            return False
        for at, wanted in enumerate(self.levels):
            if wanted == "#":
                return True
            if at >= len(levels):
                return False
            if wanted == "+":
                continue
            if is_pattern and "%" in wanted:
                if ("%u" in wanted and not username) or ("%c" in wanted and not client_id):
                    return False
                wanted = _filled(wanted, username or "", client_id)
            if wanted != levels[at]:
                return False
        return len(levels) == len(self.levels)


def _filled(level: str, username: str, client_id: str) -> str:
    """In one pass, so that nothing is filled in inside of a name."""
    return client_id.join(part.replace("%u", username) for part in level.split("%c"))


class Acl:
    """Read again when the file has changed. If it is broken then, the error is logged and the old content stays valid."""

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `OperatorError` that names the broken line."""
        self._path = path
        self._clock = clock
        self._seen = file_state(path)
        self._users, self._patterns = _read(path)
        self._look_at = clock() + _LOOK_AGAIN
        self.on_change: Callable[[], None] = _nothing

    def allows(self, topic: str, username: str | None, client_id: str, *, write: bool) -> bool:
        """`username` is None for an anonymous client."""
        self.look()
        levels = topic.split("/")
        allowed = False
        for rules, is_pattern in ((self._users.get(username, []), False), (self._patterns, True)):
            for rule in rules:
                if (rule.denies or (rule.writes if write else rule.reads)) and rule.covers(levels, username, client_id, is_pattern):
                    if rule.denies:
                        return False
                    allowed = True
        return allowed

    def look(self) -> None:
        """Read the file again if it has changed; looks once a second."""
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_AGAIN
        state = file_state(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._users, self._patterns = _read(self._path)
        except OperatorError as error:
            log.error("%s; the content that was read before stays valid", error)
            return
        self.on_change()


def _nothing() -> None:
    pass


def _read(path: str) -> tuple[dict[str | None, list[_Rule]], list[_Rule]]:
    """The rules by user (None: anonymous), and the patterns."""
    try:
        with open(path, "rb") as file:
            lines = file.read().decode().splitlines()
    except OSError as error:
        raise OperatorError(f"acl_file: {path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise OperatorError(f"acl_file: {path}: it is not UTF-8") from None
    users: dict[str | None, list[_Rule]] = {}
    patterns: list[_Rule] = []
    user: str | None = None
    for number, line in enumerate(lines, 1):
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        where = f"acl_file: {path}, line {number}"
        if not word or word.startswith("#"):
            continue
        if word == "user":
            if not rest:
                raise OperatorError(f"{where}: the user is missing")
            user = rest
        elif word in ("topic", "pattern"):
            rule = _rule(rest, where)
            if word == "topic":
                users.setdefault(user, []).append(rule)
            else:
                patterns.append(rule)
        else:
            raise OperatorError(f"{where}: {word!r} is not user, topic or pattern")
    return users, patterns


def _rule(text: str, where: str) -> _Rule:
    first, _, rest = text.partition(" ")
    access, topic_filter = (first, rest.strip()) if first in _ACCESS and rest.strip() else ("readwrite", text)
    try:
        check_filter(topic_filter, 1000)
    except MQTTError as error:
        raise OperatorError(f"{where}: {topic_filter!r}: {error}") from None
    return _Rule(access, topic_filter)
