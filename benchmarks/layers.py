"""What does each layer cost? Measures on every event loop and writes the figures and the page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from llmgw.apps import bench

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- layers: begin -->\n", "<!-- layers: end -->\n"


def commit() -> str:
    """The commit that was measured, marked when the tree was not clean."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def markdown(reports: dict[str, dict[str, Any]]) -> str:
    """The page's table from the figures."""
    first = next(iter(reports.values()))
    told = f"Python {first['python']}, {first['machine']}, commit {first['commit']}."
    head = [
        "layer",
        *(f"{name}, {unit}" for name in reports for unit in ("a request", "a message")),
    ]
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    for number, row in enumerate(first["layers"]):
        cells = [row["name"]]
        for report in reports.values():
            for kind in ("request", "message"):
                cost = bench.Cost(**report["layers"][number][kind])
                cells.append(f"{cost.median:.2f}" if cost.known else "hidden by noise")
        lines.append(" | ".join(cells))
    return f"{told}\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n"


def rendered(page: str) -> str:
    """The page with the table of the figures that are in ``results/``."""
    reports = {
        name: msgspec.json.decode((RESULTS / f"layers-{name}.json").read_bytes())
        for name in bench.BACKENDS
    }
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{markdown(reports)}{END}{after}"


def main() -> None:
    """Measure, write, render."""
    for name in bench.BACKENDS:
        rows = bench.measure(name)
        print(name, bench.table(rows), sep="\n")
        report = {**bench.report(name, rows), "commit": commit()}
        data = msgspec.json.format(msgspec.json.encode(report))
        (RESULTS / f"layers-{name}.json").write_bytes(data + b"\n")
    PAGE.write_text(rendered(PAGE.read_text()))


if __name__ == "__main__":
    sys.exit(main())
