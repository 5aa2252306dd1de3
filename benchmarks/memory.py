"""How much memory does the gateway take: idle, under load, and for streams that wait?

The streams have begun and then nothing comes, as when a model thinks; each holds a connection to
the client and one to the upstream.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import gateway, load, meter, results, rigs

STREAMS = (1000, 5000)  # of llmgw; others get the first
FILES = 20_000  # open at once


async def begun(port: int, request: bytes, count: int) -> tuple[list[load.Client], load.Round]:
    """Streams whose first byte has come."""
    loop = asyncio.get_running_loop()
    found = load.Round()
    clients: list[load.Client] = []
    for at in range(count):
        _, client = await loop.create_connection(
            lambda: load.Client(request, found, lambda client: None), "127.0.0.1", port
        )
        client.ask()
        clients.append(client)
        if at % 100 == 99:
            await asyncio.sleep(0.02)
    end = time.monotonic() + 60
    while not all(client.first for client in clients):
        if found.failures or time.monotonic() > end:
            missing = sum(not client.first for client in clients)
            raise RuntimeError(f"{missing} streams did not begin: {found.failure}")
        await asyncio.sleep(0.1)
    return clients, found


async def waiting(one: rigs.Running, count: int) -> int:
    """The memory while so many streams wait."""
    clients, _ = await begun(one.rig.port, one.rig.request(stream=True), count)
    await asyncio.sleep(1)
    found = meter.rss(one.pid)
    for client in clients:
        client.transport.abort()
    return found


def measure(one: rigs.Running, upstream: int) -> dict[str, Any]:
    """The memory of one gateway, in MB, and KB a waiting stream."""
    row: dict[str, Any] = {"name": one.rig.name, "idle_mb": meter.rss(one.pid) / 1e6}
    asyncio.run(load.tell(upstream, **gateway.CALM))
    asyncio.run(load.closed(one.rig.port, one.rig.request(), gateway.CONNECTIONS, 2))
    loaded = meter.rss(one.pid)
    row["loaded_mb"] = loaded / 1e6
    if one.rig.streams:
        asyncio.run(load.tell(upstream, events=50, together=1, delay_ms=600_000))
        for count in STREAMS if one.rig.name == "llmgw" else STREAMS[:1]:
            row[f"kb_a_stream_of_{count}"] = (
                (asyncio.run(waiting(one, count)) - loaded) / count / 1e3
            )
        asyncio.run(load.tell(upstream, **gateway.CALM))
    return row


def main() -> None:
    """Measure what is here, write the figures."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    results.pin_myself()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, rigs.upstream() as upstream:
        found, absent = rigs.rigs(upstream, Path(folder))
        for line in absent:
            print("skipped:", line)
        for rig in results.chosen(found):
            with rigs.running(rig, Path(folder)) as one:
                rows.append(measure(one, upstream))
    keys = ["idle_mb", "loaded_mb", *(f"kb_a_stream_of_{count}" for count in STREAMS)]
    columns: list[results.Column] = [(key, lambda row, k=key: row.get(k)) for key in keys]
    print(results.table(rows, columns))
    results.write("memory", {"skipped": absent, "rows": rows})


if __name__ == "__main__":
    sys.exit(main())
