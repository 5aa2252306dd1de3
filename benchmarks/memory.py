"""How much memory does the gateway take: idle, under load, and for streams that wait?

The streams have begun and then nothing comes, as when a model thinks; each holds a connection to
the client and one to the upstream.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

from benchmarks import client, load, meter, options, processes, results
from benchmarks.field import CONNECTIONS, Field, by_cost, prepared
from benchmarks.processes import Running
from benchmarks.rigs import OURS, Rig

STREAMS = (1000, 5000)  # of llmgw; others get the first
AT_ONCE = 100  # that begin together
SECONDS = 3.0
PATIENCE = 60.0  # seconds until all have begun; chosen


async def begun(port: int, request: bytes, count: int) -> list[client.Client]:
    """Streams whose first byte has come. Raises RuntimeError."""
    found = client.Round()
    clients: list[client.Client] = []
    end = time.monotonic() + PATIENCE
    while len(clients) < count:
        for _ in range(min(AT_ONCE, count - len(clients))):
            one = await client.connected(port, request, found, lambda client: None)
            one.ask()
            clients.append(one)
        while not all(one.first for one in clients[-AT_ONCE:]):
            if found.failures or time.monotonic() > end:
                missing = sum(not one.first for one in clients)
                raise RuntimeError(f"{missing} streams did not begin: {found.failure}")
            await asyncio.sleep(0.005)
    return clients


async def waiting(running: Running, count: int, rest: float) -> int:
    """The memory while so many streams wait."""
    clients = await begun(running.rig.port, running.rig.request(stream=True), count)
    await asyncio.sleep(rest)
    if not all(one.busy for one in clients):
        raise RuntimeError("a stream did not wait")
    found = meter.rss(running.process.pid)
    for one in clients:
        one.transport.abort()
    return found


async def loaded(one: Running, seconds: float) -> int:
    """The most memory seen under load."""
    running = asyncio.create_task(
        load.closed(one.rig.port, one.rig.request(), CONNECTIONS, seconds)
    )
    most = 0
    while not running.done():
        most = max(most, meter.rss(one.process.pid))
        await asyncio.sleep(0.1)
    found = await running
    if found.failures:
        raise RuntimeError(f"{found.failures} failures, the first: {found.failure}")
    return most


def measure(one: Running, field: Field, seconds: float) -> dict[str, Any]:
    """The memory of one gateway, in MB: idle, and at most under load. Raises RuntimeError."""
    idle = meter.rss(one.process.pid)
    field.upstream.tell()
    most = load.run(loaded(one, seconds))
    return {"name": one.name, "idle_mb": round(idle / 1e6, 1), "loaded_mb": round(most / 1e6, 1)}


def a_stream(one: Running, field: Field, count: int, rest: float) -> float:
    """KB that a waiting stream takes, where so many wait. Raises RuntimeError."""
    before = meter.rss(one.process.pid)
    field.upstream.tell(events=50, together=2, delay_ms=600_000)  # a role, and a word
    try:
        return round((load.run(waiting(one, count, rest)) - before) / count / 1e3, 1)
    finally:
        field.upstream.tell()


def main() -> None:
    """Measure what is here, keep the figures."""
    given = options.read()
    rows: list[dict[str, Any]] = []
    seconds = given.pick(SECONDS, 0.3)
    with prepared(given) as field:
        for rig in field.rigs:
            counts = STREAMS if rig.name == OURS else STREAMS[:1]

            def go(rig: Rig = rig, count: int = 0) -> None:
                with processes.running(rig, field.folder) as one, one.awake():
                    found = measure(one, field, seconds)
                    if count:
                        each = a_stream(one, field, given.pick(count, 100), min(seconds, 1.0))
                        found[f"kb_a_stream_of_{count}"] = each
                rows[-1].update(found)

            rows.append({"name": rig.name})
            field.attempt(rig.name, go)
            for count in counts if rig.streams else ():
                field.attempt(f"{rig.name}, {count} streams", functools.partial(go, count=count))
            print(rows[-1])
    rows = [row for row in rows if "idle_mb" in row]
    by_cost(rows, lambda row: row["idle_mb"])
    keys = ["idle_mb", "loaded_mb", *(f"kb_a_stream_of_{count}" for count in STREAMS)]
    columns: list[results.Column] = [(key, lambda row, key=key: row.get(key)) for key in keys]
    print(results.table(rows, columns))
    results.write("memory", {**field.facts(), "rows": rows}, given)


if __name__ == "__main__":
    main()
