"""The page docs/performance.md and its charts, made again from the figures in ``results/``.

``python -m benchmarks.page [--out FOLDER]``: figures are read from that folder instead. Text
between the markers ``<!-- NAME: begin -->`` and ``end`` is written by this; the rest is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec

from benchmarks import charts, options, results, tables
from benchmarks.gateway import KINDS, cost
from benchmarks.options import RESULTS
from llmgw.apps.bench_chart import chart
from llmgw.apps.bench_cli import BACKENDS
from llmgw.apps.bench_report import Report

DOCS = results.HERE.parent / "docs"
PAGE, CHARTS = DOCS / "performance.md", DOCS / "charts"
NOTHING = "Not measured yet: `python -m benchmarks.{name}`.\n"
LAYERS = "uvloop"  # of the loops, the one that is drawn
CHARTED = ("request", "waiting", "single", "paced")  # of the gateway's kinds
SIMPLE = (
    ("memory", "idle_mb", "Resident memory, idle, MB"),
    ("start", "first_answer_s", "Seconds from the start to the first answer"),
)

SECTIONS: Mapping[str, Callable[[Any], str]] = {
    "layers": tables.layers,
    "gateway": tables.gateway,
    "latency": tables.latencies,
    "memory": tables.memories,
    "start": tables.starts,
    "slopes": tables.slopes,
    "litellm": tables.litellm,
    "counts": tables.counts,
}


def found_in(folder: Path) -> dict[str, Any]:
    """What there is, by the name of its section."""
    found: dict[str, Any] = {}
    for name in SECTIONS:
        names = [f"layers-{backend}" for backend in BACKENDS] if name == "layers" else [name]
        there = {one: data for one in names if (data := results.read(one, folder)) is not None}
        if name == "layers":
            there = {one.partition("-")[2]: data for one, data in there.items()}
        if there:
            found[name] = there if name == "layers" else there[name]
    return found


@attrs.frozen
class Chart:
    """A picture, and what it shows."""

    title: str
    svg: str


def drawn(found: Mapping[str, Any]) -> dict[str, Chart]:
    """The charts: file name, which begins with the section's -> chart."""
    made: dict[str, Chart] = {}
    if report := found.get("layers", {}).get(LAYERS):
        title = f"What each layer costs on {LAYERS}"
        made["layers.svg"] = Chart(title, chart(msgspec.convert(report, Report)))
    for kind in KINDS:
        if kind.name in CHARTED and (gateway := found.get("gateway")):
            rows = [(row["name"], cost(row, kind.name) or 0.0) for row in gateway["rows"]]
            made[f"gateway-{kind.name}.svg"] = bars(f"CPU, {kind.unit}", rows)
    for name, key, title in SIMPLE:
        if data := found.get(name):
            made[f"{name}.svg"] = bars(title, [(row["name"], row[key]) for row in data["rows"]])
    for row in found.get("slopes", {}).get("rows", []):
        for key, what in (("bytes", "a request by its bytes"), ("events", "a stream by events")):
            points = [(point["x"], point["cpu_us"]) for point in row[key]["points"]]
            title = f"{row['name']}: {what}"
            note = f"at most {row[key]['line']['off']:.1%} off a straight line"
            svg = charts.points(title, key, points, note)
            made[f"slopes-{row['name']}-{key}.svg"] = Chart(title, svg)
    return made


def bars(title: str, rows: Sequence[tuple[str, float]]) -> Chart:
    """A chart of bars."""
    return Chart(title, charts.bars(title, rows))


def section(name: str, found: Mapping[str, Any], made: Mapping[str, Chart]) -> str:
    """A section's text: its table, and the charts that belong to it."""
    if name not in found:
        return NOTHING.format(name=name)
    mine = {file: one for file, one in made.items() if file.startswith(name)}
    images = [f"\n![{one.title}](charts/{file})\n" for file, one in mine.items()]
    return SECTIONS[name](found[name]) + "".join(images)


def rendered(page: str, folder: Path = RESULTS) -> str:
    """The page with the figures of a folder."""
    found = found_in(folder)
    made = drawn(found)
    for name in SECTIONS:
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        before, marker, rest = page.partition(begin)
        if marker:
            page = f"{before}{begin}{section(name, found, made)}{end}{rest.partition(end)[2]}"
    return page


def main() -> None:
    """Write the page and the charts; a chart of nothing goes."""
    folder = options.read().folder or RESULTS
    made = drawn(found_in(folder))
    CHARTS.mkdir(exist_ok=True)
    for path in CHARTS.glob("*.svg"):
        if path.name not in made:
            path.unlink()
    for name, one in made.items():
        (CHARTS / name).write_text(one.svg, encoding="utf-8")
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), folder), encoding="utf-8")


if __name__ == "__main__":
    main()
