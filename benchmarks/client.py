"""One connection of the load: a request is bytes made once, a response is read by llhttp."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import attrs
import httptools
import msgspec

PROMPT = "word " * 310  # with its envelope 1.7 KB
EVENT = b"data: {"  # how an event begins; [DONE] does not


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
    cpu: float = 0.0  # of this process
    answers: int = 0
    failures: int = 0
    events: int = 0  # of the answers
    latencies: list[float] = attrs.field(factory=list[float])  # to the end of the answer
    firsts: list[float] = attrs.field(factory=list[float])  # to the body's first byte
    failure: str = ""  # the first one

    def fail(self, why: str) -> None:
        """Note a failure."""
        self.failures += 1
        self.failure = self.failure or why


@attrs.define
class EventCounter:
    """Counts events in a body that comes in pieces, wherever it is cut."""

    count: int = 0
    _tail: bytes = b""

    def feed(self, piece: bytes) -> None:
        """Take a piece."""
        piece = self._tail + piece
        self.count += piece.count(EVENT)
        self._tail = piece[1 - len(EVENT) :]


class Client(asyncio.Protocol):
    """One connection: one request at a time; ``done`` is called when it has ended, well or not."""

    def __init__(self, request: bytes, found: Round, done: Callable[[Client], None]) -> None:
        self.request, self.found, self.done = request, found, done
        self.transport: Any = None
        self.busy, self.open = False, False
        self.first = self.began = 0.0
        self.events = EventCounter()
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport, self.open = transport, True
        self.parser = httptools.HttpResponseParser(self)

    def ask(self) -> None:
        """Send the request."""
        self.busy, self.first, self.events, self.body = True, 0.0, EventCounter(), b""
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._end(f"no HTTP: {exc!r}", close=True)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self.first:
            self.first = time.perf_counter() - self.began
            self.body = body[:300]
        self.events.feed(body)

    def on_message_complete(self) -> None:
        """An answer is complete."""
        status = self.parser.get_status_code()
        if status != 200:
            return self._end(f"{status} {self.body.decode(errors='replace')}", close=True)
        found = self.found
        found.answers += 1
        found.events += self.events.count
        found.latencies.append(time.perf_counter() - self.began)
        found.firsts.append(self.first)
        self._end("", close=not self.parser.should_keep_alive())

    def connection_lost(self, exc: Exception | None) -> None:
        """The gateway has closed it."""
        self.open = False
        if self.busy:
            self._end(f"closed: {exc!r}", close=True)

    def _end(self, failure: str, *, close: bool) -> None:
        if close:
            self.open = False
            self.transport.close()
        if self.busy:
            self.busy = False
            if failure:
                self.found.fail(failure)
            self.done(self)


async def connected(
    port: int, request: bytes, found: Round, done: Callable[[Client], None]
) -> Client:
    """A client that is connected. Raises OSError."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(
        lambda: Client(request, found, done), "127.0.0.1", port
    )
    return client
