"""The bench's chart: a report as bars, alone and in the stack, in SVG. Pure: data in, text out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from llmgw.apps.bench import Cost, Costs
from llmgw.apps.bench_report import Report, shown

LEFT, PANEL, ROW, TOP = 100, 250, 34, 112  # pixels: names, a panel's bars, a row, the head
GAP = 130  # pixels right of a panel's bars, for the figures
FONT = 'font-family="system-ui, sans-serif" font-size="13" fill="#444"'
COLOURS = {"alone": "#9aa5b1", "stack": "#2f6f4f"}
GRID = "#d0d7de"
DARK = (  # what a reader with a dark background gets instead
    "@media (prefers-color-scheme: dark){text{fill:#c9d1d9}.grid{stroke:#444c56}"
    ".alone{fill:#6e7681}.stack{fill:#3fb07a}}"
)


def text(x: float, y: float, words: str, *, kind: str = "", anchor: str = "start") -> str:
    """A text; its kind is title, figure (small) or none."""
    looks = {"title": ' font-weight="600"', "figure": ' font-size="11"'}.get(kind, "")
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{looks}'
    return f"<text {place}>{escape(words)}</text>"


def bar(x: float, y: float, width: float, kind: str, height: float = 12) -> str:
    """A bar; its kind is alone or stack."""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}"'
    return f'<rect {place} class="{kind}" fill="{COLOURS[kind]}"/>'


def line(way: str) -> str:
    """A line of the grid."""
    return f'<path class="grid" stroke="{GRID}" d="{way}"/>'


def picture(width: int, height: int, parts: Sequence[str]) -> str:
    """A whole SVG of its parts."""
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT}><style>{DARK}</style>'
    return "\n".join([head, *parts, "</svg>\n"])


def step_of(highest: float) -> float:
    """The distance of grid lines: 1, 2 or 5 times a power of ten, at most five lines."""
    raw = max(highest, 1e-3) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)


def panel(report: Report, x: float, title: str, of: Callable[[Costs], Cost | None]) -> list[str]:
    """The bars of one unit, a row a layer: alone above, in the stack below."""
    pairs = [(of(row.alone), None if row.stack is None else of(row.stack)) for row in report.rows]
    known = [cost.us for pair in pairs for cost in pair if cost is not None and cost.us is not None]
    highest = max([*known, 0.01])
    scale = PANEL / highest
    bottom = TOP + ROW * len(pairs)
    parts = [text(x, TOP - 30, title, kind="title")]
    step = step_of(highest)
    for number in range(int(highest / step) + 1):
        at = x + number * step * scale
        parts.append(line(f"M{at:.1f} {TOP - 8}V{bottom}"))
        label = f"{number * step:.10g}"
        parts.append(text(at, TOP - 12, label, kind="figure", anchor="middle"))
    for number, pair in enumerate(pairs):
        for at, (kind, cost) in enumerate(zip(("alone", "stack"), pair, strict=True)):
            if cost is None:
                continue
            y, width = TOP + ROW * number + 13 * at, max(0.0, cost.us or 0.0) * scale
            parts.append(bar(x, y, width, kind))
            figure = shown(cost) if cost.us is None else f"{cost.us:.2f}"
            parts.append(text(x + width + 5, y + 10, figure, kind="figure"))
    return parts


def chart(report: Report) -> str:
    """A report as a picture."""
    second = LEFT + PANEL + GAP
    told = f"{report.backend}, Python {report.python}, {report.machine}"
    parts = [text(8, 18, f"Microseconds of CPU around {report.app}", kind="title")]
    parts += [text(8, 36, told, kind="figure")]
    parts += [bar(8, 47, 12, "alone"), text(26, 57, "alone")]
    parts += [bar(80, 47, 12, "stack"), text(98, 57, "in the stack")]
    for number, row in enumerate(report.rows):
        parts.append(text(LEFT - 10, TOP + ROW * number + 17, row.name, anchor="end"))
    parts += panel(report, LEFT, "a request", lambda costs: costs.request)
    if any(row.alone.message is not None for row in report.rows):
        parts += panel(report, second, "a streamed message", lambda costs: costs.message)
    return picture(second + PANEL + GAP, TOP + ROW * len(report.rows) + 12, parts)
