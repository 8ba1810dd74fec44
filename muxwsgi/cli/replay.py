"""`muxwsgi replay`: sends recorded requests again, one after the other, and shows what was answered then and now. No gevent."""

import http.client
import json
import os
import re
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, urlsplit

import click

from muxwsgi.errors import OperatorError

if TYPE_CHECKING:
    from muxwsgi.records.flow import Flow

__all__ = ["replay"]

#: Fields of the connection that the request was sent on then (RFC 9110 section 7.6.1), and those that say how its body was framed.
_NOT_SENT = frozenset(
    {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "upgrade"}
    | {"content-length", "expect", "host", "trailer", "transfer-encoding"}
    | {"content_length", "transfer_encoding"}  # the same to servers that take an underscore for a hyphen
)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))

_CHUNK = 1 << 16

_COLUMNS = "{:>8} {:<8} {:>4} {:>4} {:>11} {:>11} {:>8} {:>8}  "


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request is sent."""

    scheme: str
    host: str
    port: int | None
    path: str

    @classmethod
    def parse(cls, url: str) -> "Target":
        """Raises `ValueError` for what is no URL of HTTP."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// URL")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, parts.hostname, parts.port, path)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its status, bytes of its body, and seconds until its end."""

    status: int
    size: int
    seconds: float


@click.command(short_help="Send the requests of a flow log again.")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--filter", "expression", metavar="EXPRESSION", help="Only the flows that this fits, as in `~d example.com & ~m GET`.")
@click.option("--target", "target_url", metavar="URL", help="Send all to this server instead, which the Host field then names too.")
@click.option("--insecure", is_flag=True, help="Do not verify certificates.")
@click.option("--upstream-ca", metavar="FILE", help="CA certificates that servers are verified with, PEM. Default: the system's.")
@click.option("--count", is_flag=True, help="Only say how many flows would be sent, and why others could not.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True, metavar="SECONDS", help="For each request."
)
def replay(
    file: str, expression: str | None, target_url: str | None, insecure: bool, upstream_ca: str | None, count: bool, timeout: float
) -> None:
    """Send the requests in FILE again, a flow log that `muxwsgi proxy --flows` wrote (- for standard input).

    The status is 0 when each was answered as it was then, 1 when one was not, or could not be sent.
    """
    from muxwsgi.records.flow_filter import parse_filter

    wanted = parse_filter(expression) if expression is not None else None
    target = _target(target_url) if target_url is not None else None
    context = _trusting(upstream_ca)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    outcomes: Counter[str] = Counter()
    with _opened(file) as stream:
        if not count:
            click.echo(_COLUMNS.format("flow", "method", "then", "now", "bytes then", "now", "ms then", "now") + "URL")
        for line, flow in _flows(stream, _Progress(stream, shown=count or not sys.stdout.isatty())):
            if isinstance(flow, str):
                outcomes["no flow"] += 1
                click.echo(f"{file}, line {line}: {flow}", err=True)
            elif wanted is None or wanted(flow):
                outcomes[_replay(flow, target, context, timeout, count)] += 1
    click.echo(_summary(outcomes, count))
    if outcomes.keys() - {"same", "sendable", "skipped"}:
        sys.exit(1)


def _trusting(ca_file: str | None) -> ssl.SSLContext:
    """A context that trusts the CAs in `ca_file` and no others; None for those of the system."""
    if ca_file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise OperatorError(f"--upstream-ca: {ca_file} does not hold CA certificates in PEM") from None
    except OSError as error:
        raise OperatorError(f"--upstream-ca: {ca_file}: {error.strerror}") from None


def _target(url: str) -> Target:
    try:
        target = Target.parse(url)
    except ValueError as error:
        raise OperatorError(f"--target: {error}") from None
    if "?" in target.path or "@" in url:
        raise OperatorError(f"--target: {url!r} is more than SCHEME://HOST[:PORT][/PATH]")
    return target


def _opened(file: str) -> BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    try:
        return open(file, "rb")
    except OSError as error:
        raise OperatorError(f"{file}: {error.strerror}") from error


def _flows(stream: BinaryIO, progress: "_Progress") -> "Iterator[tuple[int, Flow | str]]":
    """Each flow with the number of its line; a text for a line that is none."""
    from muxwsgi.records.flow_record import flow_of

    for number, line in enumerate(stream, 1):
        progress.at(len(line), number)
        try:
            yield number, flow_of(json.loads(line))
        except (ValueError, RecursionError) as error:
            yield number, f"this is no flow: {error}"
    progress.end()


_OURS = {"proxy": "this proxy itself", "rule": "a rule", "application": "a mounted application"}


def _replay(flow: "Flow", target: Target | None, context: ssl.SSLContext, timeout: float, count: bool) -> str:
    """What became of it: a word for the summary."""
    from muxwsgi.records.flow_record import REDACTED, flow_url

    method = flow.request.line[0] if flow.request is not None else "-"
    url = flow_url(flow) or flow.destination or "-"
    then = flow.response.line[1] if flow.response is not None else "-"
    row = _Row(flow, method, then, url)
    if flow.kind != "http":
        return row.end("skipped", f"not sent: it is no HTTP exchange, but {flow.kind}", quiet=count)
    if flow.answered_by is not None and flow.answered_by != "upstream":
        return row.end("ours", f"not sent: no upstream has answered it, but {_OURS[flow.answered_by]}", quiet=count)
    if flow.request is None or method == "CONNECT":
        return row.end("refused", "not sent: it has no request")
    if flow.forth.truncated:
        return row.end("refused", f"not sent: of its body's {flow.forth.size} bytes only {len(flow.forth.data)} were kept")
    if count:
        return "sendable"
    left_out = [name for name, value in flow.request.fields if value == REDACTED]
    try:
        place = Target.parse(url)
        if target is not None:
            place = Target(target.scheme, target.host, target.port, target.path.rstrip("/") + place.path)
        answer = _send(flow, method, place, target is not None, context, timeout)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return row.end("failed", f"no answer: {str(error) or type(error).__name__}")
    note = f"sent without {', '.join(left_out)}, which {'was' if len(left_out) == 1 else 'were'} not recorded" if left_out else ""
    return row.end("same" if str(answer.status) == then else "other", note, answer)


def _send(flow: "Flow", method: str, place: Target, rehosted: bool, context: ssl.SSLContext, timeout: float) -> Answer:
    """On a connection of its own: no answer can be mistaken for another's."""
    from muxwsgi.records.flow_record import REDACTED

    assert flow.request is not None
    if _TOKEN.fullmatch(method) is None:  # http.client looks for control characters only
        raise ValueError(f"{method!r} is no method")
    began = time.monotonic()
    connection = (
        http.client.HTTPConnection(place.host, place.port, timeout=timeout)
        if place.scheme == "http"
        else http.client.HTTPSConnection(place.host, place.port, timeout=timeout, context=context)
    )
    fields = flow.request.fields
    body = bytes(flow.forth.data)
    framed = body or any(name.lower() in ("content-length", "transfer-encoding") for name, _ in fields)
    host = place.authority if rehosted else next((value for name, value in fields if name.lower() == "host"), place.authority)
    named = {option.strip().lower() for name, value in fields if name.lower() == "connection" for option in value.split(",")}
    try:
        path = "*" if flow.request.line[1] == "*" else quote(place.path.encode("latin-1"), safe=_PRINTABLE)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host.encode("latin-1"))
        for name, value in fields:
            if name.lower() not in _NOT_SENT | named and value != REDACTED:
                connection.putheader(name, value.encode("latin-1"))
        if framed:
            connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Connection", "close")
        connection.endheaders(body or None)
        response = connection.getresponse()
        size = 0
        while data := response.read1(_CHUNK):
            size += len(data)
            if time.monotonic() - began > timeout:
                raise TimeoutError(f"after {timeout:g} s and {size} bytes the response had not ended")
        if response.length:
            raise http.client.HTTPException(f"the response broke off, {response.length} bytes before its end")
        return Answer(response.status, size, time.monotonic() - began)
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the table."""

    flow: "Flow"
    method: str
    then: str
    url: str

    def end(self, outcome: str, note: str = "", answer: Answer | None = None, *, quiet: bool = False) -> str:
        if not quiet:
            now = (str(answer.status), str(answer.size), f"{answer.seconds * 1e3:.0f}") if answer is not None else ("-", "-", "-")
            took = f"{self.flow.ended * 1e3:.0f}" if self.flow.ended is not None else "-"
            columns = (self.flow.id, self.method, self.then, now[0], self.flow.back.size, now[1], took, now[2])
            row = _COLUMNS.format(*columns) + self.url + (f"  ({note})" if note else "")
            click.echo("".join(char if char.isprintable() else ascii(char)[1:-1] for char in row))
        return outcome


def _summary(outcomes: Counter[str], count: bool) -> str:
    words: list[tuple[str, Callable[[int], str]]] = [
        ("sendable", lambda n: f"{n} can be sent"),
        ("same", lambda n: f"{n} answered as then"),
        ("other", lambda n: f"{n} with another status"),
        ("failed", lambda n: f"{n} not answered"),
        ("refused", lambda n: f"{n} refused"),
        ("skipped", lambda n: f"{n} of other protocols"),
        ("ours", lambda n: f"{n} that no upstream had answered"),
        ("no flow", lambda n: f"{n} lines that are no flows"),
    ]
    always = "sendable" if count else "same"
    return ", ".join(say(outcomes[name]) for name, say in words if outcomes[name] or name == always)


class _Progress:
    """How far we are in a long file, on a terminal where nothing else would move."""

    def __init__(self, stream: BinaryIO, shown: bool) -> None:
        self._shown = shown and sys.stderr.isatty()
        self._size = os.fstat(stream.fileno()).st_size if self._shown else 0
        self._read = 0
        self._next = time.monotonic() + 1

    def at(self, size: int, number: int) -> None:
        self._read += size
        if self._shown and time.monotonic() > self._next:
            self._next = time.monotonic() + 0.2
            share = f"{self._read / self._size:4.0%}, " if self._size else ""
            click.echo(f"\r{share}{number} flows", nl=False, err=True)

    def end(self) -> None:
        if self._shown:
            click.echo("\r\033[K", nl=False, err=True)
