"""Does the cost grow linearly with the request's bytes and with the stream's events?

A straight line is laid through the costs; printed are its slope and how far the farthest point lies
off it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import attrs

from benchmarks import figures, options, processes, results
from benchmarks.field import Field, prepared, turn
from benchmarks.processes import Running
from benchmarks.rigs import OURS

SIZES = (1_000, 10_000, 100_000, 1_000_000)  # bytes of a request's prompt
EVENTS = (10, 100, 1_000, 10_000)  # of a stream
ROUNDS, SECONDS, CONNECTIONS = 3, 2.0, 8


def cost(one: Running, field: Field, request: bytes, seconds: float) -> float:
    """CPU microseconds a request. Raises RuntimeError."""
    found = turn(one, field.upstream, request, CONNECTIONS, seconds)
    return found.cpu / found.round.answers * 1e6


def measure(one: Running, field: Field, rounds: int, seconds: float) -> dict[str, Any]:
    """The cost by bytes and by events, in turns."""
    bodies: dict[int, list[float]] = {size: [] for size in SIZES}
    streams: dict[int, list[float]] = {count: [] for count in EVENTS}
    for _ in range(rounds):
        field.upstream.tell()
        for size, seen in bodies.items():
            seen.append(cost(one, field, one.rig.request(prompt="word " * (size // 5)), seconds))
        for count, seen in streams.items():
            field.upstream.tell(events=count)
            seen.append(cost(one, field, one.rig.request(stream=True), seconds))
    field.upstream.tell()
    return {"bytes": points_of(bodies), "events": points_of(streams)}


def points_of(seen: dict[int, list[float]]) -> dict[str, Any]:
    """The medians, and the line through them."""
    points = [(size, statistics.median(found)) for size, found in seen.items()]
    line = figures.line_of(points)
    return {
        "points": [{"x": x, "cpu_us": round(y, 1)} for x, y in points],
        "line": attrs.asdict(line),
    }


def told(name: str, found: dict[str, Any], each: int, unit: str) -> str:
    """A line and its points, for people."""
    line, points = found["line"], found["points"]
    text = ", ".join(f"{point['x']:,}: {point['cpu_us']:,.0f}" for point in points)
    return (
        f"{name}: {line['slope'] * each:.2f} µs {unit}, and {line['start']:.0f} µs to begin; "
        f"the farthest point is {line['off']:.1%} off ({text})"
    )


def names_of(names: Sequence[str]) -> Sequence[str]:
    """Which rigs: those that are named, else ours."""
    return names or (OURS,)


def main() -> None:
    """Measure, keep the figures."""
    given = options.read()
    rows: list[dict[str, Any]] = []
    with prepared(given) as field:
        field.rigs = [rig for rig in field.rigs if rig.name in names_of(given.names)]
        with processes.all_running(field.rigs, field.folder) as every:
            for one in every:
                found = measure(one, field, given.pick(ROUNDS, 1), given.pick(SECONDS, 0.2))
                rows.append({"name": one.name, **found})
    for row in rows:
        print(told(f"{row['name']}, a request", row["bytes"], 1000, "a KB"))
        print(told(f"{row['name']}, a stream", row["events"], 1, "an event"))
    results.write("slopes", {**field.facts(), "rows": rows}, given)


if __name__ == "__main__":
    main()
