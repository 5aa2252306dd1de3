"""Charts: bars and lines as SVG, made of the figures in ``results/``. Pure: data in, text out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, ROW = 760, 190, 80, 26
INK, OURS, OTHERS, LINE = "#555", "#2f6f4f", "#9aa5b1", "#d0d7de"
FONT = 'font-family="system-ui, sans-serif" font-size="13"'


def text_of(value: float) -> str:
    """A figure with as many digits as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def svg(height: int, parts: Sequence[str]) -> str:
    """A picture of its parts."""
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT} fill="{INK}">', *parts, "</svg>\n"]
    )


def bars(title: str, rows: Sequence[tuple[str, float]], ours: str = "llmgw") -> str:
    """Horizontal bars on a logarithmic scale, smallest first; ours stand out by colour."""
    found = sorted((row for row in rows if row[1] > 0), key=lambda row: row[1])
    low = 10 ** math.floor(math.log10(min(value for _, value in found)))
    high = 10 ** math.ceil(math.log10(max(value for _, value in found) * 1.01))
    scale = (WIDTH - LEFT - RIGHT) / math.log10(high / low)
    height = 40 + ROW * len(found) + 24
    parts = [f'<text x="8" y="20" font-weight="600">{escape(title)}</text>']
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        x = LEFT + (power - math.log10(low)) * scale
        parts.append(f'<path d="M{x:.1f} 34V{height - 22}" stroke="{LINE}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{height - 6}" text-anchor="middle">{10**power:,g}</text>'
        )
    for number, (name, value) in enumerate(found):
        y = 40 + ROW * number
        width = max(1.0, math.log10(value / low) * scale)
        colour = OURS if name.startswith(ours) else OTHERS
        parts.append(f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="{LEFT}" y="{y + 2}" width="{width:.1f}" height="{ROW - 8}" fill="{colour}"/>'
        )
        parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{y + 15}">{text_of(value)}</text>')
    return svg(height, parts)
