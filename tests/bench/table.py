"""One table per load, as text for the terminal and as Markdown for the documents."""

from collections.abc import Sequence

from tests.bench.clients import Nothing
from tests.bench.loads import GROUPS, LOADS, Load
from tests.bench.registry import PEERS
from tests.bench.results import Results

__all__ = ["footer", "markdown", "ours", "text", "title_of"]

#: The process that holds connections and does nothing else.
BARE = "bare-openssl"
_START = ("server", "ms to the first answer", "ratio", "CPU ms", "PSS MiB", "beside")
_RELOAD = ("server", "reloads", "requests", "lost", "p99 ms, quiet", "p99 ms, reloads", "connections", "PSS MiB", "lost by")
_HEADS = ("server", "requests/s", "ratio", "CPU us/request", "CPU ratio", "busy", "p50 ms", "p99 ms", "PSS MiB", "beside")


def ours(peer: str) -> bool:
    return peer.startswith("muxwsgi")


def title_of(peer: str) -> str:
    return PEERS[peer].title if peer in PEERS else peer


def text(results: Results) -> str:
    lines: list[str] = []
    for load in _loads(results):
        rows = [_heads(load), *_rows(results, load)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines += ["", f"{load.name}: {GROUPS[load.group]}; {load.title}"]
        lines += [f"  {load.note}"] if load.note else []
        for row in rows:
            cells = [
                cell.ljust(width) if column in (0, len(row) - 1) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join([*lines, "", *footer(results)])


def markdown(results: Results, group: str) -> str:
    lines: list[str] = []
    for load in _loads(results):
        if load.group == group:
            heads = _heads(load)
            lines += [
                "",
                f"**{load.title[0].upper()}{load.title[1:]}** (`{load.name}`)",
                "",
                *([load.note, ""] if load.note else []),
                _line(heads),
            ]
            lines += ["|" + "|".join("---" if column in (0, len(heads) - 1) else "---:" for column in range(len(heads))) + "|"]
            lines += [_line(row) for row in _rows(results, load)]
    return "\n".join(lines[1:])


def footer(results: Results) -> list[str]:
    """What the figures are to be read with."""
    machine = dict(results.machine)
    lines = [
        "{}: {}, {}, Python {}; {}".format(*(machine.pop(name, "") for name in ("when", "processor", "system", "python", "options")))
    ]
    if machine:
        lines.append(", ".join(f"{name} {version}" for name, version in machine.items()))
    if any(results.is_load_bound(load, peer) for load, peer in results.turns):
        lines.append("* the server waited for the load: its requests/s are the load's, its CPU per request is its own")
    lines += [f"without {name}: {reason}" for name, reason in results.missing.items()]
    return lines


def _loads(results: Results) -> list[Load]:
    return [load for load in LOADS if results.peers(load.name)]


def _is_memory(load: Load) -> bool:
    return isinstance(load.client, Nothing)


def _heads(load: Load) -> tuple[str, ...]:
    memory = ("server", "KiB/connection", "beyond the bare one", "PSS MiB", "beside")
    if _is_memory(load):
        return memory
    return {"start": _START, "reload": _RELOAD}.get(load.group, _HEADS)


def _rows(results: Results, load: Load) -> list[tuple[str, ...]]:
    peers = results.peers(load.name)
    return [_row(results, load, peer, next((peer for peer in peers if ours(peer)), None)) for peer in peers]


def _row(results: Results, load: Load, peer: str, reference: str | None) -> tuple[str, ...]:
    def figure(name: str, form: str = ",.1f", factor: float = 1.0) -> str:
        value = results.median(load.name, peer, name)
        return "-" if value is None else format(value * factor, form)

    if _is_memory(load):
        kib, bare = results.median(load.name, peer, "connection"), results.median(load.name, BARE, "connection")
        return (
            title_of(peer),
            figure("connection"),
            "-" if kib is None or bare is None else f"{kib - bare:,.1f}",
            figure("pss", factor=1 / 1024),
            "",
        )
    if load.group == "start":
        own, first = results.median(load.name, reference, "first") if reference else None, results.median(load.name, peer, "first")
        ratio = "-" if not own or first is None else f"{first / own:.2f}"
        return (title_of(peer), figure("first", ",.0f"), ratio, figure("first_cpu", ",.0f"), figure("pss", factor=1 / 1024), "")
    if load.group == "reload":
        return (
            title_of(peer),
            figure("reloads", ",.0f"),
            figure("requests", ",.0f"),
            figure("lost", ",.0f"),
            figure("quiet_p99", ".1f"),
            figure("p99", ".1f"),
            figure("connects", ",.0f"),
            figure("pss", factor=1 / 1024),
            results.lost_by(load.name, peer),
        )
    own = results.median(load.name, reference, "speed") if reference else None
    own_cpu = results.median(load.name, reference, "cpu") if reference else None
    speed, cpu = results.median(load.name, peer, "speed"), results.median(load.name, peer, "cpu")
    beside = _beside_none(results, load, peer)
    if results.median(load.name, peer, "hijacked_p99") is not None:
        share, p50, p99 = figure("hijacked_share", ".0%"), figure("hijacked_p50", ".2f"), figure("hijacked_p99", ".2f")
        beside = f"hijacked: {share} of messages, p50 {p50}, p99 {p99} ms"
    if results.median(load.name, peer, "most") is not None:
        beside = f"{figure('fewest', '.0f')} to {figure('most', '.0f')} of 64 connections a worker"
    return (
        title_of(peer),
        figure("speed", ",.0f") + ("*" if results.is_load_bound(load.name, peer) else ""),
        "-" if own is None or not speed else f"{own / speed:.2f}",
        figure("cpu"),
        "-" if not own_cpu or cpu is None else f"{cpu / own_cpu:.2f}",
        figure("server_busy", ".0%"),
        figure("p50", ".2f"),
        figure("p99", ".2f"),
        figure("pss", factor=1 / 1024),
        beside,
    )


def _beside_none(results: Results, load: Load, peer: str) -> str:
    """What idle connections cost the busy ones, against the same run without any."""
    changes = []
    for name, field in (("requests/s", "speed"), ("CPU", "cpu")):
        now, before = results.median(load.name, peer, field), results.median("idle-0", peer, field)
        if load.group == "idle" and load.idle and now and before:
            changes.append(f"{name} {now / before - 1:+.0%}")
    return f"against none idle: {', '.join(changes)}" if changes else ""


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
