"""How much CPU does the gateway take for a request and for a streamed event; and what do others?

Each gateway alone on one core, the upstream and the load on the other; 64 connections; rounds in
turns, the others asleep. Measured is the CPU of the gateway's process, which is steadier than its
throughput and does not depend on the load's own speed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from benchmarks import figures, options, processes, results
from benchmarks.field import CONNECTIONS, Field, by_cost, prepared, turn, warn
from benchmarks.processes import Running

ROUNDS, SECONDS = 5, 2.0


@attrs.frozen
class Kind:
    """What is asked in a turn."""

    name: str
    unit: str
    stream: bool = False
    knobs: Mapping[str, float] = attrs.field(factory=dict[str, float])


KINDS = [
    Kind("request", "µs a request"),
    Kind("waiting", "µs a request that takes 100 ms", knobs={"wait_ms": 100}),
    Kind("single", "µs an event, a write each, no pause", stream=True, knobs={"together": 1}),
    Kind("burst10", "µs an event, 10 at once", stream=True, knobs={"together": 10}),
    Kind("burst100", "µs an event, 100 at once", stream=True, knobs={"together": 100}),
    Kind(
        "paced",
        "µs an event every 20 ms",
        stream=True,
        knobs={"events": 50, "together": 1, "delay_ms": 20},
    ),
]


def one_turn(one: Running, field: Field, kind: Kind, seconds: float) -> dict[str, float]:
    """One turn at one gateway: CPU microseconds a unit, and units a second."""
    field.upstream.tell(**kind.knobs)
    request = one.rig.request(stream=kind.stream)
    found = turn(one, field.upstream, request, CONNECTIONS, seconds)
    units = found.round.events if kind.stream else found.round.answers
    if not units:
        raise RuntimeError("no events in its streams")
    return {
        "cpu_us": found.cpu / units * 1e6,
        "a_second": units / found.round.took,
        "load_cpu": found.load_cpu,
    }


def measure(field: Field, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """All gateways, all kinds, in turns: a row for each gateway."""
    seen: dict[tuple[str, str], list[dict[str, float]]] = {}
    with processes.all_running(field.rigs, field.folder) as every:
        for number in range(rounds):
            for kind in KINDS:
                for one in every if number % 2 else reversed(every):
                    if kind.stream and not one.rig.streams:
                        continue

                    def go(one: Running = one, kind: Kind = kind) -> None:
                        found = one_turn(one, field, kind, seconds)
                        seen.setdefault((one.name, kind.name), []).append(found)

                    field.attempt(f"{one.name}, {kind.name}", go)
            print(f"round {number + 1} of {rounds}")
        names = [one.name for one in every]
    rows: list[dict[str, Any]] = []
    for name in names:
        row: dict[str, Any] = {"name": name}
        for kind in KINDS:
            if turns := seen.get((name, kind.name)):
                row[kind.name] = summary(turns)
                warn(name, kind.unit, row[kind.name]["load_cpu"])
        rows.append(row)
    return rows


def summary(turns: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The medians, and the range of the CPU."""
    return {
        "cpu_us": figures.summary([turn["cpu_us"] for turn in turns]),
        "a_second": round(statistics.median(turn["a_second"] for turn in turns)),
        "load_cpu": round(max(turn["load_cpu"] for turn in turns), 2),
    }


def cost(row: Mapping[str, Any], kind: str) -> float | None:
    """The median of a kind in a row, None where it was not measured."""
    found: float | None = row.get(kind, {}).get("cpu_us", {}).get("median")
    return found


def main() -> None:
    """Measure what is here, tell what is not, keep the figures."""
    given = options.read()
    with prepared(given) as field:
        rows = measure(field, given.pick(ROUNDS, 2), given.pick(SECONDS, 0.3))
    by_cost(rows, lambda row: cost(row, "request"))
    columns: list[results.Column] = [
        (kind.unit, lambda row, kind=kind: cost(row, kind.name)) for kind in KINDS
    ]
    columns.append(("requests/s", lambda row: row.get("request", {}).get("a_second")))
    columns.append(("load's share", lambda row: row.get("request", {}).get("load_cpu")))
    print(results.table(rows, columns))
    results.write("gateway", {"connections": CONNECTIONS, **field.facts(), "rows": rows}, given)


if __name__ == "__main__":
    main()
