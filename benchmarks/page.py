"""The page docs/performance.md and its charts, made again from the figures in ``results/``.

``python -m benchmarks.page``. Text between the markers ``<!-- NAME: begin -->`` and ``end`` is
written by this; the rest of the page is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import charts, results
from benchmarks.gateway import KINDS
from benchmarks.latency import RATES
from llmgw.apps import bench

PAGE = results.HERE.parent / "docs" / "performance.md"


def shown(value: float | None, digits: int = 0) -> str:
    """A figure, or nothing."""
    return "" if value is None else f"{value:,.{digits}f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def told(found: Mapping[str, Any]) -> str:
    """Where and with what it was measured."""
    skipped = "; ".join(found.get("skipped", []))
    text = f"Python {found['python']}, {found['machine']}, commit {found['commit']}."
    return text + (f" Not here: {skipped}." if skipped else "") + "\n\n"


def layers() -> str:
    """What each layer costs."""
    reports = {name: results.read(f"layers-{name}") for name in bench.BACKENDS}
    first = next(iter(reports.values()))
    head = [
        "layer",
        *(f"{name}, {unit}" for name in reports for unit in ("a request", "a message")),
    ]
    rows: list[list[str]] = []
    for number, row in enumerate(first["layers"]):
        costs = [
            bench.Cost(**report["layers"][number][kind])
            for report in reports.values()
            for kind in ("request", "message")
        ]
        cells = [f"{cost.median:.2f}" if cost.known else "hidden by noise" for cost in costs]
        rows.append([row["name"], *cells])
    return told(first) + markdown(head, rows)


def gateway() -> str:
    """CPU a request and an event."""
    found = results.read("gateway")
    head = ["", *(kind.unit for kind in KINDS), "requests a second on one core"]
    rows: list[list[str]] = []
    for row in sorted(found["rows"], key=lambda row: row["request"]["cpu_us"]):
        costs = [row.get(kind.name, {}).get("cpu_us") for kind in KINDS]
        cells = [shown(cost, 0 if cost is None or cost >= 100 else 1) for cost in costs]
        rows.append([row["name"], *cells, shown(row["request"]["a_second"])])
    charted = [f"![{kind.unit}](../benchmarks/results/{kind.name}.svg)\n" for kind in KINDS]
    return told(found) + markdown(head, rows) + "\n" + "\n".join(charted)


def latency() -> str:
    """Added latency."""
    found = results.read("latency")
    kinds = [f"{what} at {rate}/s" for what in ("answer", "first byte") for rate in RATES]
    rows: list[list[str]] = []
    for row in found["rows"]:
        cells = [
            f"{row[kind]['p50_ms']:.2f} / {row[kind]['p99_ms']:.2f}" if kind in row else ""
            for kind in kinds
        ]
        rows.append([row["name"], *cells])
    return told(found) + markdown(["added ms, p50 / p99", *kinds], rows)


def memory() -> str:
    """Memory."""
    found = results.read("memory")
    columns = {
        "idle_mb": "idle, MB",
        "loaded_mb": "after load, MB",
        "kb_a_stream_of_1000": "KB a stream of 1,000 that wait",
        "kb_a_stream_of_5000": "of 5,000",
    }
    rows = [[row["name"], *(shown(row.get(key), 1) for key in columns)] for row in found["rows"]]
    return told(found) + markdown(["", *columns.values()], rows)


def start() -> str:
    """Start."""
    found = results.read("start")
    rows = [[row["name"], f"{row['first_answer_s']:.2f}"] for row in found["rows"]]
    imports = [f"`import {name}` {seconds:.2f} s" for name, seconds in found["imports_s"].items()]
    table = markdown(["", "seconds from the start to the first answer"], rows)
    return told(found) + table + f"\n{', '.join(imports)}.\n"


def slopes() -> str:
    """Slopes."""
    found = results.read("slopes")
    bodies = [[f"{row['bytes']:,}", shown(row["cpu_us"])] for row in found["bodies"]]
    streams = [
        [f"{row['events']:,}", shown(row["cpu_us"]), shown(row["cpu_us"] / row["events"], 1)]
        for row in found["streams"]
    ]
    return (
        told(found)
        + markdown(["bytes of a request", "µs"], bodies)
        + "\n"
        + markdown(["events of a stream", "µs", "µs an event"], streams)
    )


SECTIONS: Mapping[str, Callable[[], str]] = {
    "layers": layers,
    "gateway": gateway,
    "latency": latency,
    "memory": memory,
    "start": start,
    "slopes": slopes,
}


def rendered(page: str) -> str:
    """The page with the figures that are in ``results/``."""
    for name, section in SECTIONS.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        before, found, rest = page.partition(begin)
        if found:
            page = f"{before}{begin}{section()}{end}{rest.partition(end)[2]}"
    return page


def drawn() -> dict[str, str]:
    """The charts: file name -> SVG."""
    found = results.read("gateway")
    made: dict[str, str] = {}
    for kind in KINDS:
        rows = [
            (row["name"], row[kind.name]["cpu_us"]) for row in found["rows"] if kind.name in row
        ]
        made[f"{kind.name}.svg"] = charts.bars(f"CPU of the gateway: {kind.unit}", rows)
    return made


def main() -> None:
    """Write the page and the charts."""
    for name, text in drawn().items():
        (results.FOLDER / name).write_text(text)
    PAGE.write_text(rendered(PAGE.read_text()))


if __name__ == "__main__":
    main()
