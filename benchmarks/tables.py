"""The page's tables: each section of docs/performance.md, made of one result. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from benchmarks import latency, memory
from benchmarks.field import FULL
from benchmarks.gateway import KINDS, cost
from llmgw.apps.bench import Cost
from llmgw.apps.bench_report import Report, shown

Result = Mapping[str, Any]


def number(value: float | None, digits: int | None = None) -> str:
    """A figure, or nothing; without digits as many as say something."""
    if value is None:
        return ""
    digits = digits if digits is not None else 0 if abs(value) >= 100 else 1
    return f"{value:,.{digits}f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def told(found: Result) -> str:
    """Where and with what it was measured, and what is missing."""
    parts = [f"Python {found['python']}, {found['machine']}, commit {found['commit']}"]
    parts += [f"{name} {version}" for name, version in found.get("peers", {}).items()]
    text = "; ".join(parts) + "."
    if missing := [*found.get("skipped", []), *found.get("failed", [])]:
        text += f" Not measured: {'; '.join(line.partition(':')[0] for line in missing)}."
    return text + "\n\n"


def brief(cost: Cost) -> str:
    """A cost in a cell; one that its spread hides has no number."""
    return shown(cost) if cost.us is None else f"{cost.us:.2f}"


def both(alone: Cost | None, stack: Cost | None) -> str:
    """A cost alone and in the stack, in one cell."""
    if alone is None:
        return ""
    return brief(alone) if stack is None else f"{brief(alone)} / {brief(stack)}"


def layers(reports: Mapping[str, Result]) -> str:
    """What each layer costs, by event loop: alone / in the stack."""
    found = {name: msgspec.convert(data, Report) for name, data in reports.items()}
    head = ["layer", *(f"{name}, {unit}" for name in found for unit in ("a request", "a message"))]
    rows: list[list[str]] = []
    for at, row in enumerate(next(iter(found.values())).rows):
        cells = [row.name]
        for report in found.values():
            alone, stack = report.rows[at].alone, report.rows[at].stack
            cells.append(both(alone.request, stack.request if stack else None))
            cells.append(both(alone.message, stack.message if stack else None))
        rows.append(cells)
    return told(next(iter(reports.values()))) + markdown(head, rows)


def gateway(found: Result) -> str:
    """CPU a request and an event; requests a second, with a mark where the load was the limit."""
    head = ["", *(kind.unit for kind in KINDS), "requests a second on one core"]
    rows: list[list[str]] = []
    for row in found["rows"]:
        request = row.get("request", {})
        rate = number(request.get("a_second"), 0)
        if request.get("load_cpu", 0) > FULL:
            rate = f"≥ {rate}"
        rows.append([row["name"], *(number(cost(row, kind.name)) for kind in KINDS), rate])
    return told(found) + markdown(head, rows)


def pair(value: Mapping[str, float] | None) -> str:
    """Two percentiles."""
    return f"{value['p50_ms']:.2f} / {value['p99_ms']:.2f}" if value else ""


def latencies(found: Result) -> str:
    """Added latency."""
    names = [kind.name for kind in latency.KINDS]
    rows = [[row["name"], *(pair(row.get(name)) for name in names)] for row in found["rows"]]
    return told(found) + markdown(["added ms, p50 / p99", *names], rows)


def memories(found: Result) -> str:
    """Memory."""
    columns = {"idle_mb": "idle, MB", "loaded_mb": "under load, MB"}
    for count in memory.STREAMS:
        columns[f"kb_a_stream_of_{count}"] = f"KB a stream, {count:,} wait"
    rows = [[row["name"], *(number(row.get(key), 1) for key in columns)] for row in found["rows"]]
    return told(found) + markdown(["", *columns.values()], rows)


def starts(found: Result) -> str:
    """Start."""
    rows = [[row["name"], number(row["first_answer_s"], 2)] for row in found["rows"]]
    imports = [f"`import {name}` {seconds:.2f} s" for name, seconds in found["imports_s"].items()]
    table = markdown(["", "seconds from the start to the first answer"], rows)
    return told(found) + table + f"\n{', '.join(imports)}.\n"


def slopes(found: Result) -> str:
    """Slopes."""
    parts = [told(found)]
    for row in found["rows"]:
        for key, unit, factor in (("bytes", "a KB", 1000), ("events", "an event", 1)):
            line, points = row[key]["line"], row[key]["points"]
            head = [f"{row['name']}, {key}", *(f"{point['x']:,}" for point in points), "line"]
            text = f"{number(line['start'], 0)} + {line['slope'] * factor:.2f} {unit}"
            cells = ["µs", *(number(point["cpu_us"], 0) for point in points)]
            parts.append(markdown(head, [[*cells, f"{text}; at most {line['off']:.1%} off"]]))
            parts.append("\n")
    return "".join(parts[:-1])


def litellm(found: Result) -> str:
    """LiteLLM, bare and by us."""
    head = ["", "bare `acompletion`, µs", "llmgw, times", "adds, µs"]
    rows = [
        [
            row["name"],
            number(row["bare_us"]),
            f"{row['ratio']['median']:.2f}",
            brief(Cost(**row["added"])),
        ]
        for row in found["rows"]
    ]
    return told(found) + markdown(head, rows)


def counts(found: Mapping[str, Mapping[str, float]]) -> str:
    """Counts, by Python version."""
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    rows = [[name, *(number(row.get(name)) for row in found.values())] for name in names]
    return markdown(["", *(f"Python {version}" for version in found)], rows)
