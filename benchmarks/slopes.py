"""Does the cost grow linearly with the request's bytes and the stream's events?"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import gateway, load, meter, results, rigs

SIZES = (1_000, 10_000, 100_000, 1_000_000)  # bytes of a request
EVENTS = (10, 100, 1_000, 10_000)  # of a stream
ROUNDS, SECONDS, CONNECTIONS = 3, 1.5, 8


def cost(one: rigs.Running, request: bytes) -> float:
    """CPU microseconds a request."""
    before = meter.cpu(one.pid)
    found = asyncio.run(load.closed(one.rig.port, request, CONNECTIONS, SECONDS))
    if found.failures:
        raise RuntimeError(found.failure)
    return (meter.cpu(one.pid) - before) / found.answers * 1e6


def measure(one: rigs.Running, upstream: int) -> dict[str, list[dict[str, Any]]]:
    """The cost by size and by number of events."""
    asyncio.run(load.tell(upstream, **gateway.CALM))
    bodies: list[dict[str, Any]] = []
    for size in SIZES:
        request = one.rig.request(prompt="word " * (size // 5))
        found = statistics.median(cost(one, request) for _ in range(ROUNDS))
        bodies.append({"bytes": size, "cpu_us": round(found, 1)})
    streams: list[dict[str, Any]] = []
    for count in EVENTS:
        asyncio.run(load.tell(upstream, events=count, together=10))
        request = one.rig.request(stream=True)
        found = statistics.median(cost(one, request) for _ in range(ROUNDS))
        streams.append({"events": count, "cpu_us": round(found, 1)})
    asyncio.run(load.tell(upstream, **gateway.CALM))
    return {"bodies": bodies, "streams": streams}


def main() -> None:
    """Measure, write the figures."""
    results.pin_myself()
    with tempfile.TemporaryDirectory() as folder, rigs.upstream() as upstream:
        rig = rigs.llmgw("llmgw", "openai", upstream, Path(folder))
        with rigs.running(rig, Path(folder)) as one:
            found = measure(one, upstream)
    for row in (*found["bodies"], *found["streams"]):
        print(row)
    results.write("slopes", found)


if __name__ == "__main__":
    sys.exit(main())
