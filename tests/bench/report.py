"""`python -m tests.bench report`: the tables of a run into docs/performance.md, between two markers, and a plot per group beside it.

A run of some groups replaces these, or adds them. What it was measured with stands below their titles then.
"""

from pathlib import Path

from tests.bench.clients import Nothing
from tests.bench.loads import GROUPS, LOADS
from tests.bench.plot import Bar, Panel, chart
from tests.bench.results import Results
from tests.bench.table import footer, markdown, ours, title_of

__all__ = ["BEGIN", "END", "write"]

BEGIN, END = "<!-- figures: written by python -m tests.bench report -->", "<!-- end of figures -->"


def write(results: Results, docs: Path) -> list[Path]:
    """The files that were written. Raises ValueError where the document has no place for figures."""
    document = docs / "performance.md"
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, behind = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no lines {BEGIN!r} and {END!r}")
    written = [document]
    head, *sections = rest.partition(END)[0].strip("\n").split("\n### ")
    there = {section.partition("\n")[0]: section.partition("\n")[2].strip("\n") for section in sections}
    measured_with = "\n".join(f"{line}  " for line in footer(results))
    new = {title: markdown(results, group) for group, title in GROUPS.items()}
    partial = any(not new.get(title) for title in there)
    for group, title in GROUPS.items():
        if new[title]:
            plot = docs / "bench" / f"{group}.svg"
            plot.parent.mkdir(exist_ok=True)
            plot.write_text(chart(title, _panels(results, group)))
            written.append(plot)
            parts = [f"![{title}](bench/{plot.name})", new[title]]
            there[title] = "\n\n".join([measured_with, *parts] if partial else parts)
    ordered = sorted(there, key=lambda title: list(GROUPS.values()).index(title) if title in GROUPS.values() else -1)
    shown = [head if partial else measured_with, *(f"### {title}\n\n{there[title]}" for title in ordered)]
    document.write_text("\n".join([before + BEGIN, "", "\n\n".join(shown), "", END + behind]))
    return written


#: The figures of a group's plot, if they are not requests/s and CPU, and what they are.
_COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "memory": (("connection",), ("KiB per idle connection, less is better",)),
    "start": (("first", "first_cpu"), ("ms to the first answer, less is better", "CPU ms until then, less is better")),
    "reload": (("lost", "p99"), ("requests lost in 50 reloads", "p99 ms meanwhile, less is better")),
}


def _panels(results: Results, group: str) -> list[Panel]:
    panels = []
    for load in LOADS:
        peers = results.peers(load.name)
        if load.group == group and peers:
            names, units = _COLUMNS.get("memory" if isinstance(load.client, Nothing) else group, (("speed", "cpu"), ("requests/s, more is better", "CPU us/request, less is better")))
            bars = [
                Bar(
                    name=title_of(peer),
                    values=tuple(results.median(load.name, peer, name) for name in names),
                    ours=ours(peer),
                    mark="*" if results.is_load_bound(load.name, peer) else "",
                )
                for peer in peers
            ]
            panels.append(Panel(title=load.title, columns=units, bars=bars))
    return panels
