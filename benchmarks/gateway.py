"""How much CPU does the gateway take for a request and for a streamed event; and what do others?

Each gateway alone on one core, the upstream and the load on the other; 64 connections; rounds in
turns. Measured is the CPU of the gateway's process, which is steadier than its throughput.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks import load, meter, results, rigs

CONNECTIONS = 64
ROUNDS, SECONDS = 5, 2.0


@attrs.frozen
class Kind:
    """What is asked in a round."""

    name: str
    unit: str
    stream: bool
    knobs: Mapping[str, float]


KINDS = [
    Kind("request", "µs a request", False, {"wait_ms": 0}),
    Kind("waiting", "µs a request that waits 100 ms", False, {"wait_ms": 100}),
    Kind("burst", "µs an event, 10 at once", True, {"wait_ms": 0, "events": 100, "together": 10}),
    Kind("paced", "µs an event every 20 ms", True, {"events": 50, "together": 1, "delay_ms": 20}),
]
CALM = {"wait_ms": 0, "delay_ms": 0, "events": 100, "together": 10}


def one_round(one: rigs.Running, kind: Kind, upstream: int, seconds: float) -> dict[str, float]:
    """One round at one gateway: CPU microseconds a unit, and units a second."""
    request = one.rig.request(stream=kind.stream)
    asyncio.run(load.tell(upstream, **{**CALM, **kind.knobs}))
    before = meter.cpu(one.pid)
    found = asyncio.run(load.closed(one.rig.port, request, CONNECTIONS, seconds))
    spent = meter.cpu(one.pid) - before
    if found.failures:
        raise RuntimeError(f"{one.rig.name}: {found.failures} failures, {found.failure}")
    units = found.events if kind.stream else found.answers
    return {"cpu_us": spent / units * 1e6, "a_second": units / found.took}


def measure(
    all_running: Sequence[rigs.Running], upstream: int, rounds: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """All gateways, all kinds, in turns: medians by gateway and kind."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for number in range(rounds + 1):
        for kind in KINDS:
            for one in all_running:
                if kind.stream and not one.rig.streams:
                    continue
                result = one_round(one, kind, upstream, seconds if number else 0.3)
                if number:  # the first round warms up
                    kept = found.setdefault(one.rig.name, {}).setdefault(kind.name, [])
                    kept.append(result)
    return {
        name: {kind: summary(rows) for kind, rows in kinds.items()} for name, kinds in found.items()
    }


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The medians, and the range of the CPU."""
    costs = [row["cpu_us"] for row in rows]
    return {
        "cpu_us": round(statistics.median(costs), 1),
        "low": round(min(costs), 1),
        "high": round(max(costs), 1),
        "a_second": round(statistics.median(row["a_second"] for row in rows)),
    }


def main() -> None:
    """Measure what is here, tell what is not, write the figures."""
    results.pin_myself()
    with tempfile.TemporaryDirectory() as folder, rigs.upstream() as upstream:
        found, absent = rigs.rigs(upstream, Path(folder))
        for line in absent:
            print("skipped:", line)
        with rigs.all_running(results.chosen(found), Path(folder)) as all_running:
            medians = measure(all_running, upstream, ROUNDS, SECONDS)
    rows = [{"name": name, **kinds} for name, kinds in medians.items()]
    columns = [(kind.unit, lambda row, k=kind.name: row.get(k, {}).get("cpu_us")) for kind in KINDS]
    print(results.table(rows, columns))
    results.write("gateway", {"connections": CONNECTIONS, "skipped": absent, "rows": rows})


if __name__ == "__main__":
    sys.exit(main())
