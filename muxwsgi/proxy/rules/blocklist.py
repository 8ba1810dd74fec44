"""`BlockList`: blocked hosts, in files of the common formats.

One rule a line, `#` begins a comment:

    ads.example.com             this host, or address, and no other
    *.tracker.example           all hosts below that name, but not the name itself
    /^ad[sv]?[0-9]*[.]/         hosts in which the regex is found
    0.0.0.0 ads.example.com     as in /etc/hosts: this host (several may follow)

The time of a lookup does not depend on the number of hosts. Only regexes are tried one after the other. Hosts are compared without regard
to case, a dot at the end, and the spelling of addresses and international names.
"""

import io
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent

from muxwsgi.errors import OperatorError
from muxwsgi.file_state import FileState, file_state
from muxwsgi.names import LONGEST_NAME, Breadth, InvalidName, comparable, parse_pattern, split_host_port
from muxwsgi.proxy.context import Context
from muxwsgi.proxy.rules.message import Request

__all__ = ["BlockList"]

log = logging.getLogger("muxwsgi.error")

#: Seconds between two looks at the files.
LOOK_AGAIN = 1.0

#: Lines that are read before other greenlets run, which takes about a millisecond, and seconds to sleep then.
SLICE = 1000
PAUSE = 0.001

#: The addresses for "nowhere" in hosts files, and the names of this machine in them, which are not blocked.
_NOWHERE = frozenset({"0.0.0.0", "127.0.0.1", "::", "::1", "0"})
_OURS = frozenset(
    {"localhost", "localhost.localdomain", "local", "broadcasthost", "0.0.0.0"}
    | {f"ip6-{name}" for name in ("localhost", "loopback", "localnet", "mcastprefix", "allnodes", "allrouters", "allhosts")}
)

#: A name in canonical form. A name that ends in a digit could be an address.
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z_])?")
_REGEX = re.compile(r"/(.+)/\s*(?:#.*)?")
_COMMENT = re.compile(r"(?:^|\s)#.*")


class _Hosts:
    """A set in parts. One set of a million hosts would block all greenlets for a moment when it grows, and when it is freed."""

    PARTS = 64

    def __init__(self) -> None:
        self._parts: list[set[str]] = [set() for _ in range(self.PARTS)]

    def __contains__(self, host: str) -> bool:
        return host in self._parts[hash(host) % self.PARTS]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def add(self, host: str) -> None:
        self._parts[hash(host) % self.PARTS].add(host)

    def forget(self) -> Iterator[None]:
        """Give the memory back, part by part."""
        for part in self._parts:
            part.clear()
            yield


class _List:
    """The rules of one file."""

    def __init__(self) -> None:
        self.hosts = _Hosts()
        self.below: set[str] = set()
        self.regexes: list[re.Pattern[str]] = []

    def add(self, line: str) -> None:
        """Raises `ValueError` with the reason for an invalid line."""
        if _NAME.fullmatch(line):  # nearly all lines of lists of names
            self.hosts.add(line)
            return
        regex = _REGEX.fullmatch(line)
        if regex is not None:
            try:
                self.regexes.append(re.compile(regex[1], re.I))
            except re.error as error:
                raise ValueError(f"{line} is not a regex: {error}") from None
            return
        words = (_COMMENT.sub("", line) if "#" in line else line).split()
        if len(words) < 2:
            if words:
                self._add_host(words[0])
        elif words[0] in _NOWHERE:
            for name in words[1:]:
                if name.lower() not in _OURS:
                    self._add_host(name)
        elif any(name.lower() not in _OURS for name in words[1:]):
            raise ValueError(f"{' '.join(words)[:80]!r} is not a rule: it has white space, and does not begin with 0.0.0.0")

    def _add_host(self, text: str) -> None:
        if _NAME.fullmatch(text):
            self.hosts.add(text)
            return
        try:
            host, breadth = parse_pattern(text, Breadth.BELOW)
        except InvalidName:
            raise ValueError(f"{text[:80]!r} is not a host") from None
        (self.hosts if breadth is None else self.below).add(host)

    def blocked(self, host: str) -> str | None:
        if host in self.hosts:
            return host
        if self.below:
            at = host.find(".")
            while at >= 0:
                if host[at + 1 :] in self.below:
                    return f"*{host[at:]}"
                at = host.find(".", at + 1)
        for regex in self.regexes:
            if regex.search(host):
                return f"/{regex.pattern}/"
        return None


class _File:
    """A list on disk, which is read again when it has changed. `rules` are those that were read last."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.rules = _List()
        self.reading: gevent.Greenlet[[], None] | None = None
        self._seen = self._signature()

    def read_now(self) -> None:
        for _ in self._read(_content(self.path)):
            pass

    def look(self) -> None:
        """If the file has changed, begin to read it. Until that is done, the old rules apply."""
        if self._seen is None or self.reading is not None:
            return
        signature = self._signature()
        if signature is not None and signature != self._seen:
            self._seen = signature  # also of a broken file, so that the error is logged once and not once a second
            self.reading = gevent.spawn(self._read_beside)

    def _read_beside(self) -> None:
        try:
            for _ in self._read(_in_thread(self.path)):
                gevent.sleep(PAUSE)
            log.info("block: %s: read again", self.path)
        except OperatorError as error:
            log.error("%s; the rules that were read before still apply", error)
        finally:
            self.reading = None

    def _read(self, content: bytes) -> Iterator[None]:
        """Yields after each slice. Raises `OperatorError` that names the broken line."""
        rules = _List()
        for number, line in enumerate(io.BytesIO(content), 1):
            try:
                rules.add(line.decode("utf-8-sig" if number == 1 else "utf-8").strip())
            except UnicodeDecodeError:
                raise OperatorError(f"block: {self.path}, line {number}: it is not UTF-8") from None
            except ValueError as error:
                raise OperatorError(f"block: {self.path}, line {number}: {error}") from None
            if number % SLICE == 0:
                yield
        before, self.rules = self.rules, rules
        yield from before.hosts.forget()

    def _signature(self) -> FileState | None:
        """None if the file is gone, or is not a regular file, such as the pipe of a shell's `<(...)`: it can be read once only."""
        return file_state(self.path, only_regular=True)


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise OperatorError(f"block: {path}: {error.strerror or error}") from error


def _in_thread(path: str) -> bytes:
    """The same in a thread, because the disk may be slow."""

    def tried() -> bytes | OperatorError:  # the pool would print a traceback of what it raises
        try:
            return _content(path)
        except OperatorError as error:
            return error

    content: bytes | OperatorError = gevent.get_hub().threadpool.apply(tried)
    if isinstance(content, OperatorError):
        raise content
    return content


class BlockList:
    """A condition for blocked hosts: `proxy.on_connect(BlockList(["hosts.txt"])).reject()`.

    At a lookup, but at most once a second, files that have changed are read again. If a file is broken then, the error is logged with the
    line. The old rules still apply, also if the file is gone.
    """

    def __init__(
        self, paths: Iterable[str | os.PathLike[str]] = (), patterns: Iterable[str] = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`patterns` are rules as in the files. Raises `OperatorError` that names the broken line or pattern."""
        self._own = _List()
        for pattern in patterns:
            try:
                self._own.add(pattern.strip())
            except ValueError as error:
                raise OperatorError(f"block: {error}") from None
        self._files = [_File(os.fspath(path)) for path in paths]
        for file in self._files:
            file.read_now()
        self._clock = clock
        self._look_at = clock() + LOOK_AGAIN

    def __repr__(self) -> str:
        return f"<BlockList {', '.join(file.path for file in self._files) or 'without files'}: {len(self)} rules>"

    def __len__(self) -> int:
        """The number of rules."""
        return sum(len(rules.hosts) + len(rules.below) + len(rules.regexes) for rules in self._lists())

    def blocked(self, host: str) -> str | None:
        """The rule that blocks this host (a name, or an address with or without brackets), None without one."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_AGAIN
            for file in self._files:
                file.look()
        name = comparable(host.strip("[]"))
        if len(name) > LONGEST_NAME:  # after the dots at the end are removed, because some servers ignore any number of them
            return None
        return next((rule for rules in self._lists() if (rule := rules.blocked(name)) is not None), None)

    def __call__(self, subject: Any, ctx: Context) -> bool:
        """Whether a request, a response's request, or the "host:port" of a tunnel goes to a blocked host, or a ClientHello names one."""
        if isinstance(subject, str):
            host = split_host_port(subject)[0]
        else:
            request = subject if isinstance(subject, Request) else ctx.request
            host = request.destination[0] if request is not None else ""
        if host and self.blocked(host) is not None:
            return True
        return ctx.tls is not None and bool(ctx.tls.sni) and self.blocked(str(ctx.tls.sni)) is not None

    def _lists(self) -> Iterator[_List]:
        yield self._own
        for file in self._files:
            yield file.rules
