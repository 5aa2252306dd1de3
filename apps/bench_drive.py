"""A driver for the bench: one client after the other, in this process, without sockets."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import attrs

from llmgw import logs
from llmgw.apps.gateway import known_as_asyncio, rare_collections
from llmgw.asgi import BODY, START, ASGIApp, Header, Message, Scope

BACKENDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


class BenchError(Exception):
    """Something cannot be measured; the text says why."""


@attrs.frozen
class Request:
    """What the app is asked."""

    method: str = "POST"
    target: str = "/v1/chat/completions"  # the path, and a query if there is one
    headers: Sequence[Header] = ()
    body: bytes = b""
    state: Mapping[str, Any] | None = None  # what the app's lifespan has made

    def scope(self) -> Scope:
        """A scope as a server makes it, once for many exchanges."""
        path, _, query = self.target.partition("?")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": list(self.headers),
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
        }
        return scope if self.state is None else {**scope, "state": self.state}


@attrs.define(eq=False)
class Client:
    """The client's side of one exchange: it stays until the response is complete."""

    body: bytes
    asked: bool = False
    status: int = 0
    pieces: int = 0  # messages of the body, less the last
    complete: bool = False
    waits: anyio.Event | None = None

    async def receive(self) -> Message:
        """Give the body; then wait for the end."""
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        if not self.complete:
            self.waits = self.waits or anyio.Event()
            await self.waits.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a message."""
        if message["type"] == START:
            self.status = message["status"]
        elif message["type"] == BODY:
            if message.get("more_body", False):
                self.pieces += 1
            else:
                self.complete = True
                if self.waits is not None:
                    self.waits.set()


async def drive(app: ASGIApp, request: Request, times: int) -> Client:
    """Ask an app so many times, one after the other; the last client.

    Raises BenchError for an answer that is not worth measuring: Retry would wait and repeat.
    """
    base = request.scope()
    client = Client(request.body)
    for _ in range(times):
        client = Client(request.body)
        await app(dict(base), client.receive, client.send)
        if client.status >= 500 or client.status == 429:
            raise BenchError(f"answered {client.status}")
        await anyio.lowlevel.checkpoint()  # the loop's turn: timers
    return client


@contextmanager
def silent_logs(wait: float = logs.SOON) -> Generator[None]:
    """Write the toolkit's log lines as the gateway does, but to nowhere."""
    log = logging.getLogger(logs.LOGGER)
    handlers, level, propagate = list(log.handlers), log.level, log.propagate
    with open(os.devnull, "w") as nowhere:
        logs.set_up_logging(nowhere, wait=wait)
        try:
            yield
        finally:
            log.handlers[:] = handlers
            log.level, log.propagate = level, propagate


@asynccontextmanager
async def as_served() -> AsyncGenerator[None]:
    """What the gateway does to its process: its log lines, its loop, its collector."""
    with silent_logs():
        async with known_as_asyncio():
            with rare_collections():
                yield
