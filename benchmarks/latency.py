"""How much latency does the gateway add at a fixed rate, to an answer and to a stream's first byte?

The load comes at fixed times, whether answered or not; the same load straight to the upstream is
taken off. In turns; the upstream answers at once.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import gateway, load, results, rigs

RATES = (30, 100)  # requests a second
ROUNDS, SECONDS = 3, 5.0
LIMIT = 0.5  # of the rate that must be answered, else the gateway cannot hold it


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return cuts[49] * 1000, cuts[98] * 1000


def times_of(port: int, request: bytes, rate: float, stream: bool) -> list[float]:
    """What a round of load waited."""
    found = asyncio.run(load.open_loop(port, request, rate, SECONDS))
    if found.failures:
        raise RuntimeError(found.failure)
    return found.firsts if stream else found.latencies


def measure(all_running: Sequence[rigs.Running], upstream: int) -> list[dict[str, Any]]:
    """Added p50 and p99, in ms, by gateway, rate and kind."""
    straight = rigs.Rig("straight", [], upstream)
    every = [(straight, True), *((one.rig, one.rig.streams) for one in all_running)]
    seen: dict[tuple[str, str], list[float]] = {}
    asyncio.run(load.tell(upstream, **gateway.CALM))
    for _ in range(ROUNDS):
        for rate in RATES:
            for stream in (False, True):
                for rig, streams in every:
                    if streams or not stream:
                        key = f"{'first byte' if stream else 'answer'} at {rate}/s"
                        request = rig.request(stream=stream)
                        seen.setdefault((rig.name, key), []).extend(
                            times_of(rig.port, request, rate, stream)
                        )
    rows: list[dict[str, Any]] = []
    for one in all_running:
        row: dict[str, Any] = {"name": one.rig.name}
        for (name, key), seconds in seen.items():
            if name == one.rig.name:
                floor = percentiles(seen["straight", key])
                found = percentiles(seconds)
                row[key] = {
                    "p50_ms": round(found[0] - floor[0], 2),
                    "p99_ms": round(found[1] - floor[1], 2),
                }
        rows.append(row)
    return rows


def main() -> None:
    """Measure what is here, write the figures."""
    results.pin_myself()
    with tempfile.TemporaryDirectory() as folder, rigs.upstream() as upstream:
        found, absent = rigs.rigs(upstream, Path(folder))
        for line in absent:
            print("skipped:", line)
        with rigs.all_running(results.chosen(found), Path(folder)) as all_running:
            rows = measure(all_running, upstream)
    kinds = [f"{what} at {rate}/s" for what in ("answer", "first byte") for rate in RATES]
    columns: list[results.Column] = [
        (f"{kind}, {p}", lambda row, k=kind, p=p: row.get(k, {}).get(f"{p}_ms"))
        for kind in kinds
        for p in ("p50", "p99")
    ]
    print(results.table(rows, columns))
    results.write("latency", {"skipped": absent, "rows": rows})


if __name__ == "__main__":
    sys.exit(main())
