"""Bar charts as SVG, for documents: a panel per load, in it a column of bars per figure. No library, no script, no font of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "Panel", "chart"]

WIDTH = 900
LEFT = 240  # the names
GAP = 30  # between the two columns of bars
NUMBER = 80  # room for the figure behind a bar
ROW = 20
HEAD = 46
OURS, OTHERS, INK, FAINT = "#2563a8", "#b8c1cc", "#1f2933", "#6b7785"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One server: `values` are one per column of the panel, None where there is no figure; `mark` is put behind the first."""

    name: str
    values: tuple[float | None, ...]
    ours: bool = False
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One load: what the columns show, and a bar of each server in each."""

    title: str
    columns: tuple[str, ...]
    bars: Sequence[Bar]


def chart(title: str, panels: Sequence[Panel]) -> str:
    """The whole picture as text. Bars of a column are to the scale of its longest."""
    drawn: list[str] = []
    top = 40
    for panel in panels:
        drawn += _panel(panel, top)
        top += HEAD + ROW * len(panel.bars) + 14
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" role="img" '
            'font-family="system-ui, sans-serif" font-size="12">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>',
            _text(16, 24, title, size=16, weight=600),
            *drawn,
            "</svg>",
            "",
        ]
    )


def _panel(panel: Panel, top: int) -> list[str]:
    room = (WIDTH - LEFT - 16 - GAP * (len(panel.columns) - 1)) // len(panel.columns)
    drawn = [_text(16, top + 18, panel.title, size=13, weight=600)]
    for column, unit in enumerate(panel.columns):
        left = LEFT + column * (room + GAP)
        drawn.append(_text(left, top + 38, unit, color=FAINT))
        longest = max((bar.values[column] or 0.0 for bar in panel.bars), default=0.0) or 1.0
        for row, bar in enumerate(panel.bars):
            value = bar.values[column]
            y = top + HEAD + row * ROW
            length = 0.0 if value is None else (room - NUMBER) * value / longest
            size = f'x="{left}" y="{y}" width="{max(length, 1):.1f}" height="{ROW - 6}" rx="2"'
            drawn.append(f'<rect {size} fill="{OURS if bar.ours else OTHERS}"/>')
            said = "no figure" if value is None else _figure(value) + (bar.mark if column == 0 else "")
            drawn.append(_text(left + length + 6, y + 11, said, color=INK if value is not None else FAINT))
    for row, bar in enumerate(panel.bars):
        drawn.append(_text(LEFT - 10, top + HEAD + row * ROW + 11, bar.name, anchor="end", weight=600 if bar.ours else 400))
    return drawn


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _text(x: float, y: float, words: str, *, size: int = 12, weight: int = 400, color: str = INK, anchor: str = "start") -> str:
    style = f'font-size="{size}" font-weight="{weight}" fill="{color}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
