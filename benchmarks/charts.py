"""Charts: bars and lines as SVG, made of the figures in ``results/``. Pure: data in, text out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmgw.apps.bench_chart import COLOURS, bar, line, picture, text

WIDTH, LEFT, RIGHT, ROW = 760, 190, 80, 26
TOP, BOTTOM, HEIGHT = 40, 44, 320  # pixels; the last one is of a chart of lines
OURS, OTHERS = "stack", "alone"  # classes of the style: green and grey


def shown(value: float) -> str:
    """A figure with as many digits as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ten(power: int) -> str:
    """A power of ten, written out."""
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"


def decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten around positive values."""
    low = math.floor(math.log10(min(values)))
    return low, max(low + 1, math.ceil(math.log10(max(values))))


def bars(title: str, rows: Sequence[tuple[str, float]], ours: str = "llmgw") -> str:
    """Horizontal bars on a logarithmic scale, smallest first; ours stand out by colour."""
    found = sorted((row for row in rows if row[1] > 0), key=lambda row: row[1])
    if not found:
        return picture(WIDTH, TOP, [text(8, 20, f"{title}: nothing was measured", kind="title")])
    low, high = decades([value for _, value in found])
    scale = (WIDTH - LEFT - RIGHT) / (high - low)
    height = TOP + ROW * len(found) + 24
    parts = [text(8, 20, title, kind="title")]
    for power in range(low, high + 1):
        x = LEFT + (power - low) * scale
        parts.append(line(f"M{x:.1f} 34V{height - 22}"))
        parts.append(text(x, height - 6, ten(power), anchor="middle"))
    for number, (name, value) in enumerate(found):
        y = TOP + ROW * number
        width = max(1.0, (math.log10(value) - low) * scale)
        parts.append(text(LEFT - 8, y + 15, name, anchor="end"))
        parts.append(bar(LEFT, y + 2, width, OURS if name.startswith(ours) else OTHERS, ROW - 8))
        parts.append(text(LEFT + width + 6, y + 15, shown(value)))
    return picture(WIDTH, height, parts)


def points(title: str, unit: str, rows: Sequence[tuple[float, float]], note: str) -> str:
    """Points and the way between them; both scales are logarithmic."""
    low_x, high_x = decades([x for x, _ in rows])
    low_y, high_y = decades([y for _, y in rows])
    step_x = (WIDTH - LEFT - RIGHT) / (high_x - low_x)
    step_y = (HEIGHT - TOP - BOTTOM) / (high_y - low_y)
    places = [
        (
            LEFT + (math.log10(x) - low_x) * step_x,
            HEIGHT - BOTTOM - (math.log10(y) - low_y) * step_y,
        )
        for x, y in rows
    ]
    parts = [text(8, 20, title, kind="title"), text(WIDTH - 8, 20, note, anchor="end")]
    for power in range(low_x, high_x + 1):
        x = LEFT + (power - low_x) * step_x
        parts.append(line(f"M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"))
        parts.append(text(x, HEIGHT - BOTTOM + 18, ten(power), anchor="middle"))
    for power in range(low_y, high_y + 1):
        y = HEIGHT - BOTTOM - (power - low_y) * step_y
        parts.append(line(f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}"))
        parts.append(text(LEFT - 8, y + 4, f"{ten(power)} µs", anchor="end"))
    parts.append(text(WIDTH - RIGHT, HEIGHT - 6, unit, anchor="end"))
    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline points="{way}" fill="none" stroke="{COLOURS[OURS]}"/>')
    for (x, y), (_, value) in zip(places, rows, strict=True):
        place = f'cx="{x:.1f}" cy="{y:.1f}" r="4"'
        parts.append(f'<circle {place} class="{OURS}" fill="{COLOURS[OURS]}"/>')
        parts.append(text(x, y - 10, shown(value), anchor="middle"))
    return picture(WIDTH, HEIGHT, parts)


PALETTE = ("#2a9d4e", "#888888", "#d1495b", "#2d6cdf")


def curves(
    title: str, unit: str, series: Sequence[tuple[str, Sequence[tuple[float, float]]]]
) -> str:
    """A line for each series; both axes go from 0 to 100 %."""
    right, height = 250, HEIGHT
    scale_x = (WIDTH - 60 - right) / 100
    scale_y = (height - TOP - BOTTOM) / 100
    parts = [text(8, 20, title, kind="title")]
    for percent in range(0, 101, 20):
        x, y = 60 + percent * scale_x, height - BOTTOM - percent * scale_y
        parts.append(line(f"M60 {y:.1f}H{WIDTH - right}"))
        parts.append(text(52, y + 4, f"{percent} %", anchor="end"))
        parts.append(text(x, height - BOTTOM + 18, f"{percent} %", anchor="middle"))
    parts.append(text(WIDTH - right, height - 6, unit, anchor="end"))
    for number, (name, points) in enumerate(series):
        colour = PALETTE[number % len(PALETTE)]
        way = " ".join(
            f"{60 + x * scale_x:.1f},{height - BOTTOM - y * scale_y:.1f}" for x, y in points
        )
        parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = TOP + 20 + 24 * number
        parts.append(
            f'<path d="M{WIDTH - right + 16} {y - 4}h20" stroke="{colour}" stroke-width="3"/>'
        )
        parts.append(text(WIDTH - right + 42, y, name))
    return picture(WIDTH, height, parts)
