"""`muxwsgi replay`: sends recorded requests again, one after the other, and compares the answers with the recorded ones. No gevent."""

import json
import os
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import click

from muxwsgi.errors import OperatorError

if TYPE_CHECKING:
    from muxwsgi.records.flow import Flow
    from muxwsgi.records.replay import Replayed, Target

__all__ = ["replay"]

_COLUMNS = "{:>8} {:<8} {:>4} {:>4} {:>11} {:>11} {:>8} {:>8}  "


@click.command(short_help="Send the requests of a flow log again.")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--filter", "expression", metavar="EXPRESSION", help="Only the flows that this fits, as in `~d example.com & ~m GET`.")
@click.option("--target", "target_url", metavar="URL", help="Send all to this server instead, which the Host field then names too.")
@click.option("--insecure", is_flag=True, help="Do not verify certificates.")
@click.option("--upstream-ca", metavar="FILE", help="CA certificates that servers are verified with, PEM. Default: the system's.")
@click.option("--count", is_flag=True, help="Only print how many flows would be sent, and why others could not.")
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
    from muxwsgi.records.replay import replay_flow, why_not

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
                replayed = why_not(flow) if count else replay_flow(flow, target, context, timeout)
                outcomes["sendable" if replayed is None else replayed.outcome] += 1
                if replayed is not None and (not count or replayed.outcome == "refused"):
                    click.echo(_row(flow, replayed))
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


def _target(url: str) -> "Target":
    from muxwsgi.records.replay import Target

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
    """Each flow with the number of its line. For a line that is not a flow, an error text with the number."""
    from muxwsgi.records.flow_record import flow_of

    for number, line in enumerate(stream, 1):
        progress.at(len(line), number)
        try:
            yield number, flow_of(json.loads(line))
        except (ValueError, RecursionError) as error:
            yield number, f"this is not a flow: {error}"
    progress.end()


def _row(flow: "Flow", replayed: "Replayed") -> str:
    """One line of the table, without control characters."""
    from muxwsgi.records.flow_record import flow_url

    answer = replayed.answer
    now = (str(answer.status), str(answer.size), f"{answer.seconds * 1e3:.0f}") if answer is not None else ("-", "-", "-")
    method = flow.request.line[0] if flow.request is not None else "-"
    then = flow.response.line[1] if flow.response is not None else "-"
    took = f"{flow.ended * 1e3:.0f}" if flow.ended is not None else "-"
    row = _COLUMNS.format(flow.id, method, then, now[0], flow.from_server.size, now[1], took, now[2])
    row += flow_url(flow) or flow.destination or "-"
    row += f"  ({replayed.note})" if replayed.note else ""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in row)


def _summary(outcomes: Counter[str], count: bool) -> str:
    words: list[tuple[str, Callable[[int], str]]] = [
        ("sendable", lambda n: f"{n} can be sent"),
        ("same", lambda n: f"{n} answered as then"),
        ("other", lambda n: f"{n} with another status"),
        ("failed", lambda n: f"{n} not answered"),
        ("refused", lambda n: f"{n} refused"),
        ("skipped", lambda n: f"{n} of other protocols"),
        ("ours", lambda n: f"{n} that no upstream had answered"),
        ("no flow", lambda n: f"{n} lines that are not flows"),
    ]
    always = "sendable" if count else "same"
    return ", ".join(say(outcomes[name]) for name, say in words if outcomes[name] or name == always)


class _Progress:
    """Shows the progress in a long file, on a terminal without other output."""

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
