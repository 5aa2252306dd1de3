"""Load for benchmarks: connections that ask again as soon as they are answered, or at a fixed rate.

Run on a core of its own, it keeps a gateway on another one busy; ``python -m benchmarks.gateway``
tells when it does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import attrs

from benchmarks.client import Client, Round, connected

T = TypeVar("T")

PATIENCE = 60.0  # seconds beyond a round's end until it is given up
ENOUGH = 100  # failures that end a round


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    found: T = uvloop.run(main)
    return found


@attrs.define(eq=False)
class Closed:
    """So many connections, each asking again as soon as it is answered."""

    port: int
    request: bytes
    seconds: float
    found: Round = attrs.field(factory=Round)
    end: float = 0.0
    running: int = 0
    over: asyncio.Event = attrs.field(factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = attrs.field(factory=set[asyncio.Task[None]])

    async def run(self, connections: int) -> Round:
        """Run for so many seconds and until all is answered."""
        began, cpu = time.perf_counter(), time.process_time()
        self.end, self.running = began + self.seconds, connections
        for _ in range(connections):
            await self._connect()
        await asyncio.wait_for(self.over.wait(), self.seconds + PATIENCE)
        self.found.took = time.perf_counter() - began
        self.found.cpu = time.process_time() - cpu
        return self.found

    async def _connect(self) -> None:
        try:
            client = await connected(self.port, self.request, self.found, self._done)
        except OSError as exc:
            self.found.fail(repr(exc))
            self._leave()
        else:
            client.ask()

    def _done(self, client: Client) -> None:
        if time.perf_counter() >= self.end or self.found.failures >= ENOUGH:
            client.transport.close()
            self._leave()
        elif client.open:
            client.ask()
        else:
            task = asyncio.get_running_loop().create_task(self._connect())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _leave(self) -> None:
        self.running -= 1
        if not self.running:
            self.over.set()


async def closed(port: int, request: bytes, connections: int, seconds: float) -> Round:
    """A round of Closed."""
    return await Closed(port, request, seconds).run(connections)


async def open_loop(port: int, request: bytes, rate: float, seconds: float) -> Round:
    """So many requests a second, whether the earlier ones are answered or not."""
    found, free = Round(), list[Client]()
    clients: list[Client] = []
    asked, ended, over = max(1, int(rate * seconds)), 0, asyncio.Event()

    def done(client: Client) -> None:
        nonlocal ended
        ended += 1
        if client.open:
            free.append(client)
        if ended == asked:
            over.set()

    began, cpu = time.perf_counter(), time.process_time()
    for number in range(asked):
        if (wait := began + number / rate - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        while free and not free[-1].open:
            free.pop()
        if not free:
            clients.append(await connected(port, request, found, done))
            free.append(clients[-1])
        free.pop().ask()
    await asyncio.wait_for(over.wait(), seconds + PATIENCE)
    found.took, found.cpu = time.perf_counter() - began, time.process_time() - cpu
    for client in clients:
        client.transport.close()
    return found


async def tell(port: int, **knobs: float) -> None:
    """Set the upstream's knobs."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    query = "&".join(f"{name}={value:g}" for name, value in knobs.items())
    writer.write(f"GET /set?{query} HTTP/1.1\r\nhost: upstream\r\n\r\n".encode())
    await reader.readuntil(b"ok")
    writer.close()
