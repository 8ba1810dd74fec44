"""`python -m tests.bench report`: the tables of a run into docs/performance.md, between two markers, and a plot per group beside it."""

from pathlib import Path

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
    parts = [f"{line}  " for line in footer(results)]
    for group, title in GROUPS.items():
        table = markdown(results, group)
        if table:
            plot = docs / "bench" / f"{group}.svg"
            plot.parent.mkdir(exist_ok=True)
            plot.write_text(chart(title, _panels(results, group)))
            written.append(plot)
            parts += ["", f"### {title}", "", f"![{title}](bench/{plot.name})", "", table]
    document.write_text("\n".join([before + BEGIN, "", *parts, "", END + behind]))
    return written


def _panels(results: Results, group: str) -> list[Panel]:
    panels = []
    for load in LOADS:
        peers = results.peers(load.name)
        if load.group == group and peers:
            names, units = (
                (("connection",), ("KiB per idle connection, less is better",))
                if group == "memory"
                else (("speed", "cpu"), ("requests/s, more is better", "CPU us/request, less is better"))
            )
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
