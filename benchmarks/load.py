"""Load for benchmarks: connections that ask again as soon as they are answered, or at a fixed rate.

No HTTP library: a request is bytes made once, a response is read by llhttp. Run on a core of its
own, it keeps a gateway on another one busy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import attrs
import httptools
import msgspec

PROMPT = "word " * 310  # with its envelope 1.7 KB


def request_of(
    port: int,
    model: str,
    *,
    path: str = "/v1/chat/completions",
    headers: dict[str, str] | None = None,
    stream: bool = False,
    prompt: str = PROMPT,
) -> bytes:
    """A chat request as bytes."""
    call: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    body = msgspec.json.encode({**call, "stream": True} if stream else call)
    lines = [f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{port}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += [f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


@attrs.define
class Round:
    """What a round of load saw; times in seconds."""

    took: float = 0.0
    answers: int = 0
    failures: int = 0
    events: int = 0  # of the answers
    latencies: list[float] = attrs.field(factory=list[float])  # to the end of the answer
    firsts: list[float] = attrs.field(factory=list[float])  # to the body's first byte
    failure: str = ""  # the first one


class Client(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self, request: bytes, found: Round, done: Callable[[Client], None]) -> None:
        self.request, self.found, self.done = request, found, done
        self.transport: Any = None
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = transport

    def ask(self, due: float | None = None) -> None:
        """Send the request; its latency counts from ``due``."""
        self.parser = httptools.HttpResponseParser(self)
        self.busy, self.first, self.events, self.body = True, 0.0, 0, b""
        self.began = time.perf_counter() if due is None else due
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self.fail(repr(exc))
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self.first:
            self.first = time.perf_counter() - self.began
            self.body = body[:300]
        self.events += body.count(b"data: {")

    def on_message_complete(self) -> None:
        """An answer is complete."""
        status = self.parser.get_status_code()
        if status != 200:
            self.fail(f"{status} {self.body.decode(errors='replace')}")
        else:
            found = self.found
            found.answers += 1
            found.events += self.events
            found.latencies.append(time.perf_counter() - self.began)
            found.firsts.append(self.first)
        self.busy = False
        self.done(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The gateway has closed it."""
        if self.busy:
            self.fail(f"closed: {exc!r}")

    def fail(self, why: str) -> None:
        """Note a failure."""
        self.found.failures += 1
        self.found.failure = self.found.failure or why


async def closed(port: int, request: bytes, connections: int, seconds: float) -> Round:
    """So many connections, each asking again as soon as it is answered."""
    loop = asyncio.get_running_loop()
    found, began = Round(), time.perf_counter()
    end = began + seconds
    running = connections
    over = loop.create_future()

    def done(client: Client) -> None:
        nonlocal running
        if time.perf_counter() < end:
            client.ask()
            return
        client.transport.close()
        running -= 1
        if not running:
            over.set_result(None)

    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: Client(request, found, done), "127.0.0.1", port
        )
        client.ask()
    await asyncio.wait_for(over, seconds + 60)
    found.took = time.perf_counter() - began
    return found


async def open_loop(port: int, request: bytes, rate: float, seconds: float) -> Round:
    """So many requests a second, whether the earlier ones are answered or not."""
    loop = asyncio.get_running_loop()
    found, began = Round(), time.perf_counter()
    free: list[Client] = []
    clients: list[Client] = []
    asked, ended, over = int(rate * seconds), 0, loop.create_future()

    def done(client: Client) -> None:
        nonlocal ended
        ended += 1
        free.append(client)
        if ended == asked:
            over.set_result(None)

    for number in range(asked):
        due = began + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if not free:
            _, client = await loop.create_connection(
                lambda: Client(request, found, done), "127.0.0.1", port
            )
            clients.append(client)
            free.append(client)
        free.pop().ask(time.perf_counter())
    await asyncio.wait_for(over, seconds + 60)
    for client in clients:
        client.transport.close()
    found.took = time.perf_counter() - began
    return found


async def tell(port: int, **knobs: float) -> None:
    """Set the upstream's knobs."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    query = "&".join(f"{name}={value:g}" for name, value in knobs.items())
    writer.write(f"GET /set?{query} HTTP/1.1\r\nhost: upstream\r\n\r\n".encode())
    await reader.readuntil(b"ok")
    writer.close()
