"""`muxwsgi ctl`: asks and controls a server that runs, through its control socket (`--control-socket`). No gevent.

Exit statuses: 0; 1 if the server has refused, has failed to do it, or is not ready (`status`); 2 for a fault in the command; 3 if nobody
answers at the socket; 4 if workers that are blocked are missing in the answer.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import click

from muxwsgi.cli.control import Control, Refused, Unreachable

__all__ = ["ctl", "table"]

#: Seconds between two looks at a reload.
LOOK = 0.2

REFUSED, UNREACHABLE, INCOMPLETE = 1, 3, 4


@dataclass(slots=True)
class _Asked:
    control: Control
    as_json: bool


@click.group(short_help="Ask and control a server that runs.")
@click.option(
    "-s", "--socket", "path", envvar="MUXWSGI_CONTROL_SOCKET", default="", metavar="SOCKET", help="The server's --control-socket."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def ctl(context: click.Context, path: str, as_json: bool) -> None:
    """Ask and control a server that runs, through the socket that it was given with --control-socket.

    Exit status: 0; 1 if the server has refused or failed, or is not ready (`status`); 2 for a wrong command; 3 if nobody answers at
    the socket; 4 if blocked workers are missing in the answer."""
    context.obj = _Asked(Control(path), as_json)


def _command(name: str, *options: Callable[..., Any]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """A command whose function returns the exit status."""

    def made(function: Callable[..., int]) -> Callable[..., int]:
        @click.pass_obj
        def run(asked: _Asked, /, **more: Any) -> int:
            try:
                return function(asked, **more)
            except Unreachable as error:
                click.echo(f"muxwsgi ctl: {error}", err=True)
                return UNREACHABLE
            except Refused as error:
                click.echo(f"muxwsgi ctl: {error}", err=True)
                return REFUSED

        run.__doc__ = function.__doc__
        command: Any = run
        for option in reversed(options):
            command = option(command)
        ctl.command(name, help=function.__doc__)(command)
        return function

    return made


def _print(asked: _Asked, content: Any, text: Callable[[], str]) -> None:
    click.echo(json.dumps(content, indent=2) if asked.as_json else text())


@_command("status")
def status(asked: _Asked) -> int:
    """Say what runs, and whether it is ready. The exit status is 1 if it is not."""
    found = asked.control.get("/status")

    def text() -> str:
        ready = "ready" if found["ready"] else "not ready: " + "; ".join(found["unready"])
        lines = [
            f"muxwsgi {found['version']} ({found['build']}), master {found['pid']}, up {duration(found['uptime'])}, "
            f"generation {found['generation']}",
            ready,
            "",
            _workers_table(found["workers"]),
        ]
        if found["configuration"]:
            lines += [
                "",
                "options that differ from their defaults:",
                *(f"  {name} = {value!r}" for name, value in found["configuration"].items()),
            ]
        return "\n".join(lines)

    _print(asked, found, text)
    return 0 if found["ready"] else REFUSED


@_command("workers")
def workers(asked: _Asked) -> int:
    """List the workers, and what blocks one that is blocked."""
    found = asked.control.get("/status")["workers"]

    def text() -> str:
        blocked = [f"worker {each['pid']} is blocked by {each['blocked_by']}" for each in found if each["blocked_by"]]
        return "\n".join([_workers_table(found), *blocked])

    _print(asked, found, text)
    return 0


def _workers_table(found: Iterable[dict[str, Any]]) -> str:
    rows = [
        (
            each["number"],
            each["pid"],
            each["generation"],
            each["state"],
            duration(each["age"]),
            each["connections"],
            each["requests"],
            size(each["memory"]),
            "-" if each["heartbeat_age"] is None else f"{each['heartbeat_age']:.1f} s ago",
        )
        for each in found
    ]
    return table(("worker", "pid", "generation", "state", "age", "connections", "requests", "memory", "heartbeat"), rows)


@_command(
    "connections",
    click.option("--route", metavar="NAME", help="Only those of this route."),
    click.option("--worker", type=int, metavar="N", help="Only those of the worker with this number."),
    click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="At most so many."),
    click.option("--trace", is_flag=True, help="Say for each why it has its route."),
)
def connections(asked: _Asked, route: str | None, worker: int | None, limit: int, trace: bool) -> int:
    """List the open connections."""
    found: list[dict[str, Any]] = []
    unanswered: list[int] = []
    after = ""
    while len(found) < limit:
        page = asked.control.get(f"/status/connections?limit=1000&after={quote(after)}")
        found += [
            each
            for each in page["connections"]
            if (route is None or each["route"] == route) and (worker is None or each["worker"] == worker)
        ]
        unanswered += page["unanswered"]
        after = page["next"]
        if after is None:
            break
    found = found[:limit]

    def text() -> str:
        rows: list[Sequence[Any]] = []
        for each in found:
            tls = each["tls"]
            rows.append(
                (
                    each["id"],
                    each["client"],
                    each["server"],
                    each["route"] or "-",
                    each["state"],
                    "-" if tls is None else f"{tls['version']} {tls['sni'] or ''}".strip(),
                    size(each["received"]),
                    size(each["sent"]),
                )
            )
            if trace:
                rows += [("", f"  {line}") for line in each["trace"]]
        return table(("id", "client", "server", "route", "state", "tls", "received", "sent"), rows)

    _print(asked, {"connections": found, "unanswered": unanswered}, text)
    return _complete(unanswered)


def _complete(unanswered: Sequence[int]) -> int:
    if unanswered:
        click.echo(f"muxwsgi ctl: no answer from {', '.join(map(str, unanswered))}: the event loop of a worker is blocked", err=True)
        return INCOMPLETE
    return 0


@_command("close", click.argument("id"))
def close(asked: _Asked, id: str) -> int:
    """Cut the connection ID, which `connections` shows as PID.NUMBER."""
    asked.control.post("close", id=id)
    return 0


@_command("drain")
def drain(asked: _Asked) -> int:
    """Let /readyz and --health-path answer 503, so that a load balancer sends no new clients. Everything is served as before."""
    asked.control.post("drain")
    return 0


@_command("undrain")
def undrain(asked: _Asked) -> int:
    """End what `drain` has begun."""
    asked.control.post("undrain")
    return 0


@_command(
    "reload",
    click.option(
        "--wait", type=float, default=120.0, show_default=True, metavar="SECONDS", help="Wait so long for its end; 0: do not wait."
    ),
)
def reload(asked: _Asked, wait: float) -> int:
    """Reload configuration and application, as SIGHUP does. The exit status is 1 if the reload fails, or does not end in time."""
    before = _reloads(asked.control)
    asked.control.post("reload")
    give_up = time.monotonic() + wait
    while time.monotonic() < give_up:
        time.sleep(LOOK)
        try:
            now = _reloads(asked.control)
        except Unreachable:  # the reload has replaced the process that answers
            continue
        if now["failed"] > before["failed"]:
            click.echo("muxwsgi ctl: the reload failed, and what served before goes on: the error log says why", err=True)
            return REFUSED
        if now["ok"] > before["ok"]:
            return 0
    if wait:
        click.echo(f"muxwsgi ctl: the reload has not ended after {wait:g} s", err=True)
        return REFUSED
    return 0


def _reloads(control: Control) -> dict[str, float]:
    series = control.get("/status")["counters"]["muxwsgi_reloads_total"]
    return {each["labels"]["result"]: each["value"] for each in series}


@_command("add-worker")
def add_worker(asked: _Asked) -> int:
    """Start one worker more, as SIGTTIN does."""
    asked.control.post("add-worker")
    return 0


@_command("remove-worker")
def remove_worker(asked: _Asked) -> int:
    """End one worker, as SIGTTOU does. It ends its connections first."""
    asked.control.post("remove-worker")
    return 0


@_command("stop", click.option("--now", is_flag=True, help="Cut the connections, as SIGQUIT does."))
def stop(asked: _Asked, now: bool) -> int:
    """Stop the server, as SIGTERM does: connections have the graceful timeout to end."""
    asked.control.post("stop", now=now)
    return 0


@_command("log-level", click.argument("level", type=click.Choice(["debug", "info", "warning", "error", "critical", "default"])))
def log_level(asked: _Asked, level: str) -> int:
    """Set the level of the workers' error logs until the server ends; `default` is the configured one."""
    return _complete(asked.control.post("log-level", level=level)["unanswered"])


@_command("routes")
def routes(asked: _Asked) -> int:
    """List the routes of each bind in their order, with the connections of all workers."""
    found = asked.control.get("/status/routes")
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for binds in found["workers"].values():
        for bind, own in binds.items():
            for each in own:
                known = merged.setdefault((bind, each["name"]), {**each, "bind": bind, "connections": 0, "refused": 0})
                known["connections"] += each["connections"]
                known["refused"] += each["refused"]
    rows = [
        (
            each["bind"],
            each["name"],
            each["connections"],
            "-" if each["limit"] is None else each["limit"],
            each["refused"],
            " ".join(each["alpn"]) or "-",
        )
        for each in merged.values()
    ]
    _print(asked, list(merged.values()), lambda: table(("bind", "route", "connections", "limit", "refused", "alpn"), rows))
    return _complete(found["unanswered"])


@_command("upstreams")
def upstreams(asked: _Asked) -> int:
    """List the servers that routes forward to. UP says how many workers find it up."""
    found = asked.control.get("/status/upstreams")
    merged: dict[str, dict[str, Any]] = {}
    for own in found["workers"].values():
        for upstream in own:
            for each in upstream["servers"]:
                _merge(merged.setdefault(each["id"], {**_NO_SERVER, "id": each["id"], "upstream": upstream["name"]}), each)
    rows = [
        (
            each["id"],
            f"{each['up']}/{each['workers']}",
            each["readiness"],
            f"{each['sessions']}/{each['maxconn'] * each['workers']}" if each["maxconn"] else each["sessions"],
            each["connected"],
            each["connect_failures"],
            f"{each['check_failures']}/{each['checks']}",
            each["downs"],
            each["last_failure"] or "-",
        )
        for each in merged.values()
    ]
    heads = ("server", "up", "readiness", "sessions", "connected", "failed", "checks failed", "downs", "last failure")
    _print(asked, list(merged.values()), lambda: table(heads, rows))
    return _complete(found["unanswered"])


_SUMS = ("sessions", "connected", "connect_failures", "checks", "check_failures", "downs")
_NO_SERVER: dict[str, Any] = {"workers": 0, "up": 0, "last_failure": None, "last_failure_at": None, **dict.fromkeys(_SUMS, 0)}


def _merge(known: dict[str, Any], each: dict[str, Any]) -> None:
    """Add what one worker says of a server."""
    for name in _SUMS:
        known[name] += each[name]
    known["workers"] += 1
    known["up"] += each["state"] == "up"
    for name in ("address", "readiness", "maxconn", "weight", "backup"):
        known[name] = each[name]
    if (each["last_failure_at"] or 0) > (known["last_failure_at"] or 0):
        known["last_failure"], known["last_failure_at"] = each["last_failure"], each["last_failure_at"]


@_command("upstream", click.argument("readiness", type=click.Choice(["ready", "drain", "maint"])), click.argument("server"))
def upstream(asked: _Asked, readiness: str, server: str) -> int:
    """Set SERVER, which `upstreams` shows as UPSTREAM/SERVER, to drain (no new connections), maint (no checks either) or ready. It holds
    through reloads, until the service ends."""
    return _complete(asked.control.post("upstream", server=server, readiness=readiness)["unanswered"])


@_command("certs")
def certs(asked: _Asked) -> int:
    """List the certificates that are served, and when they expire."""
    found = asked.control.get("/status/certificates")["certificates"]
    rows = [(each["bind"], each["subject"], each["not_after"], each["issuer"]) for each in found]
    _print(asked, found, lambda: table(("bind", "subject", "not after", "issuer"), rows))
    return 0


# Text


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns for people. A row with fewer cells than heads is not aligned."""
    cells = [tuple(printable(str(cell)) for cell in row) for row in rows]
    whole = [row for row in (heads, *cells) if len(row) == len(heads)]
    widths = [max(len(row[at]) for row in whole) for at in range(len(heads))]
    lines = []
    for row in (heads, *cells):
        aligned = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)] if len(row) == len(heads) else row
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def printable(text: str) -> str:
    """`text` without control characters, which a client may have sent for the operator's terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def duration(seconds: float) -> str:
    """Such as 3 s, 4 min, 5.2 h, 6.1 d."""
    for unit, size_of in (("d", 86400), ("h", 3600)):
        if seconds >= size_of:
            return f"{seconds / size_of:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def size(count: float) -> str:
    """Such as 312 B, 4.0 KiB, 17.3 MiB."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} GiB"
