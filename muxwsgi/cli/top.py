"""`muxwsgi top`: a server that runs, shown in the terminal, through its control socket. No gevent.

In a terminal and with rich (`pip install muxwsgi[top]`) it is shown again every few seconds until Ctrl-C. Otherwise it is printed once.
"""

import sys
import time
from typing import Any

import click

from muxwsgi.cli.control import Control, Refused, Unreachable
from muxwsgi.cli.ctl import REFUSED, UNREACHABLE, duration, size, table

__all__ = ["picture", "top"]

#: Routes and statuses that are shown.
_ROWS = 10


@click.command(short_help="Show a server that runs, live.")
@click.option(
    "-s", "--socket", "path", envvar="MUXWSGI_CONTROL_SOCKET", default="", metavar="SOCKET", help="The server's --control-socket."
)
@click.option(
    "-d", "--interval", type=click.FloatRange(0.2), default=2.0, show_default=True, metavar="SECONDS", help="Seconds between two pictures."
)
@click.option("--once", is_flag=True, help="Print one picture and end. This is the default if standard output is no terminal.")
def top(path: str, interval: float, once: bool) -> int:
    """Show a server that runs: requests a second, durations, workers, routes. Ctrl-C ends it.

    Exit status: 0; 1 if the server refuses; 2 for a wrong command; 3 if nobody answers at the socket."""
    control = Control(path)
    try:
        before, now = _look(control), None
        if once or not sys.stdout.isatty():
            time.sleep(min(interval, 1.0))
            click.echo(picture(before, _look(control)))
            return 0
        try:
            from rich.live import Live
            from rich.text import Text
        except ImportError:
            click.echo("a live view needs the package rich (pip install muxwsgi[top])", err=True)
            time.sleep(min(interval, 1.0))
            click.echo(picture(before, _look(control)))
            return 0
        with Live(Text("..."), screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                try:
                    now = _look(control)
                except Unreachable as error:  # a reload replaces the process that answers
                    live.update(Text(f"{error}: trying again"), refresh=True)
                    continue
                live.update(Text(picture(before, now)), refresh=True)
                before = now
    except KeyboardInterrupt:
        return 0
    except Unreachable as error:
        click.echo(f"muxwsgi top: {error}", err=True)
        return UNREACHABLE
    except Refused as error:
        click.echo(f"muxwsgi top: {error}", err=True)
        return REFUSED


def _look(control: Control) -> dict[str, Any]:
    found: dict[str, Any] = control.get("/status")
    found["at"] = time.monotonic()
    return found


def picture(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What happened between two looks, as text."""
    seconds = max(now["at"] - before["at"], 0.001)
    then, counters = before["counters"], now["counters"]

    def rate(name: str) -> float:
        return float((_sum(counters[name]) - _sum(then[name])) / seconds)

    ready = "ready" if now["ready"] else "NOT READY: " + "; ".join(now["unready"])
    lines = [
        f"muxwsgi {now['version']}  master {now['pid']}  up {duration(now['uptime'])}  generation {now['generation']}  {ready}",
        f"requests {rate('muxwsgi_http_requests_total'):,.1f}/s   connections {_sum(counters['muxwsgi_connections']):,.0f} open, "
        f"{rate('muxwsgi_connections_accepted_total'):,.1f}/s new   out {size(rate('muxwsgi_http_response_body_bytes_total'))}/s   "
        f"in {size(rate('muxwsgi_http_request_body_bytes_total'))}/s",
        f"durations {_quantiles(then, counters)}   refused {rate('muxwsgi_refusals_total'):,.1f}/s   "
        f"deadlines missed {rate('muxwsgi_deadlines_missed_total'):,.1f}/s",
        "",
    ]
    old = {each["pid"]: each["requests"] for each in before["workers"]}
    lines += [
        table(
            ("worker", "pid", "state", "age", "connections", "requests/s", "requests", "memory", "lag"),
            [
                (
                    each["number"], each["pid"], each["state"], duration(each["age"]), each["connections"],
                    f"{max(each['requests'] - old.get(each['pid'], 0), 0) / seconds:,.1f}", each["requests"], size(each["memory"]),
                    f"{each['lag'] * 1000:.1f} ms",
                )
                for each in now["workers"]
            ],
        ),
        "",
    ]  # fmt: skip
    statuses = _by(counters["muxwsgi_http_requests_total"], "status")
    earlier = _by(then["muxwsgi_http_requests_total"], "status")
    rows = sorted(
        ((f"{(count - earlier.get(name, 0)) / seconds:,.1f}", name, count) for name, count in statuses.items()), key=lambda row: -row[2]
    )
    lines.append(table(("status", "requests/s", "requests"), [(name, rate_of, f"{count:,.0f}") for rate_of, name, count in rows[:_ROWS]]))
    routes = _by(counters["muxwsgi_connections"], "route")
    total = _by(counters["muxwsgi_route_connections_total"], "route")
    lines += [
        "",
        table(
            ("route", "open", "connections"),
            [(name, f"{routes.get(name, 0):,.0f}", f"{count:,.0f}") for name, count in list(total.items())[:_ROWS]],
        ),
    ]
    return "\n".join(lines)


def _sum(found: Any) -> float:
    return float(sum(each["value"] for each in found)) if isinstance(found, list) else float(found)


def _by(found: list[dict[str, Any]], label: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for each in found:
        sums[each["labels"][label]] = sums.get(each["labels"][label], 0.0) + each["value"]
    return sums


def _quantiles(then: dict[str, Any], now: dict[str, Any]) -> str:
    """The bounds of buckets that half, and 99 of 100, of the exchanges since the last look are below."""
    name = "muxwsgi_http_request_duration_seconds"
    counts = [(bound, word - old) for (bound, word), (_, old) in zip(now[name]["buckets"], then[name]["buckets"], strict=True)]
    total = sum(count for _, count in counts)
    if not total:
        return "-"
    found = []
    for quantile in (0.5, 0.99):
        seen = 0
        for bound, count in counts:
            seen += count
            if seen >= quantile * total:
                found.append(f"p{quantile * 100:.0f} <= {bound * 1000:g} ms" if bound is not None else f"p{quantile * 100:.0f} > 60 s")
                break
    return ", ".join(found)
