"""An OpenAI-compatible server over raw sockets that breaks on purpose.

The model's name chooses the fault (FAULTS), ``@`` its parameter, ``:`` a label that means nothing:
``cut-rst``, ``429-after@2``, ``500-once:mine``. It runs in a thread of its own, so that a test may
use any event loop; or alone, for clients in other languages:

    python wall.py 9000
    POST /v1/chat/completions     GET /_attempts     POST /_reset
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import anyio.to_thread
import attrs

WAIT = 60.0  # seconds until a wait gives up; a busy machine needs some
TOKENS = [f"t{number} " for number in range(60)]
TEXT = "".join(TOKENS)
CUT = 40  # tokens that go out before a cut
EARLY = 20  # tokens that go out before what goes wrong in mid-stream
UNICODE = "🦜 grüße 世界 "
BIG = 10 << 20  # bytes of the big event
TICK = 0.005  # seconds between two writes that must not arrive together


@attrs.define(eq=False)
class Attempt:
    """One request as it came, and how it went."""

    model: str
    stream: bool
    headers: dict[str, str]
    at: float  # time.monotonic()
    closed_at: float | None = None  # when its connection was closed, by whomever
    tokens_sent: int = 0

    @property
    def key(self) -> str:
        """The provider key that it carried."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")


class Reset(Exception):  # noqa: N818
    """The connection is to be reset."""


class Fin(Exception):  # noqa: N818
    """The connection is to be closed in order, whatever is missing."""


@attrs.define(eq=False)
class Exchange:
    """One request on a connection, and the ways to answer it."""

    attempt: Attempt
    parameter: float
    usage: bool
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def stream(self) -> bool:
        """Whether an event stream was asked for."""
        return self.attempt.stream

    async def raw(self, data: bytes) -> None:
        """Write bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int = 200, *lines: str) -> None:
        """Write a status line and headers."""
        text = "\r\n".join([f"HTTP/1.1 {status} Status", *lines, "", ""])
        await self.raw(text.encode())

    async def whole(
        self, body: bytes, status: int = 200, kind: str = "application/json", *lines: str
    ) -> None:
        """Write a whole response."""
        await self.head(status, f"content-type: {kind}", f"content-length: {len(body)}", *lines)
        await self.raw(body)

    async def error(self, status: int, message: str, *lines: str, code: str | None = None) -> None:
        """Write an error in OpenAI's form."""
        error = {"message": message, "type": "error", "param": None, "code": code}
        body = json.dumps({"error": error}).encode()
        await self.whole(body, status, "application/json", *lines)

    async def events(self) -> None:
        """Begin an event stream in chunks."""
        await self.head(200, "content-type: text/event-stream", "transfer-encoding: chunked")

    async def chunk(self, data: bytes) -> None:
        """Write one chunk of the transfer coding."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, data: dict[str, Any] | str) -> None:
        """Write one event."""
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
        await self.chunk(f"data: {text}\n\n".encode())

    async def tokens(self, first: int, last: int) -> None:
        """Write the events of some tokens."""
        for token in TOKENS[first:last]:
            await self.event(self.delta({"content": token}))
            self.attempt.tokens_sent += 1

    def delta(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """A chunk of OpenAI's form."""
        return self.chunk_of([{"index": 0, "delta": delta, "finish_reason": finish}])

    def chunk_of(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A chunk with these choices."""
        head = {"id": "chatcmpl-wall", "object": "chat.completion.chunk", "created": 1}
        return {**head, "model": self.attempt.model, "choices": choices, **more}

    def answer(self, text: str = TEXT) -> bytes:
        """The whole answer."""
        message = {"role": "assistant", "content": text}
        body = {
            "id": "chatcmpl-wall",
            "object": "chat.completion",
            "created": 1,
            "model": self.attempt.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": USAGE,
        }
        return json.dumps(body, ensure_ascii=False).encode()

    async def finish(self, *, done: bool = True) -> None:
        """Write the end of a good stream."""
        await self.event(self.delta({}, "stop"))
        if self.usage:
            await self.event(self.chunk_of([], usage=USAGE))
        if done:
            await self.event("[DONE]")
        await self.end()

    async def end(self) -> None:
        """Write the last chunk of the transfer coding."""
        await self.raw(b"0\r\n\r\n")

    async def client_leaves(self) -> None:
        """Say nothing more until the client closes the connection."""
        while await self.reader.read(1024):
            pass
        raise Fin


USAGE = {"prompt_tokens": 5, "completion_tokens": len(TOKENS), "total_tokens": 5 + len(TOKENS)}
Fault = Callable[[Exchange], Awaitable[None]]
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Fault], Fault]:
    """Name a fault."""

    def add(func: Fault) -> Fault:
        FAULTS[name] = func
        return func

    return add


@fault("well")
async def well(exchange: Exchange) -> None:
    """Nothing is wrong."""
    if not exchange.stream:
        exchange.attempt.tokens_sent = len(TOKENS)
        return await exchange.whole(exchange.answer())
    await exchange.events()
    await exchange.event(exchange.delta({"role": "assistant", "content": ""}))
    await exchange.tokens(0, len(TOKENS))
    await exchange.finish()


@fault("429")
async def limited(exchange: Exchange) -> None:
    """A limit that does not say for how long."""
    await exchange.error(429, "slow down")


@fault("429-after")
async def limited_for(exchange: Exchange) -> None:
    """A limit of as many seconds as the parameter."""
    await exchange.error(429, "slow down", f"retry-after: {exchange.parameter:g}")


@fault("500-once")
async def once(exchange: Exchange) -> None:
    """Fails for the first request with this model name, parameter and all; then well."""
    if exchange.parameter:  # set by the wall: how often the name has come
        return await well(exchange)
    await exchange.error(500, "once")


@fault("503")
async def unavailable(exchange: Exchange) -> None:
    """For ever."""
    await exchange.error(503, "no")


@fault("401")
async def refused(exchange: Exchange) -> None:
    """Our key is no good."""
    await exchange.error(401, f"bad key {exchange.attempt.key}", code="invalid_api_key")


@fault("400-context")
async def too_long(exchange: Exchange) -> None:
    """The prompt is too long for this model."""
    text = "This model's maximum context length is 8 tokens."
    await exchange.error(400, text, code="context_length_exceeded")


@fault("400-content")
async def policy(exchange: Exchange) -> None:
    """The prompt is against the provider's policy."""
    await exchange.error(400, "policy", code="content_policy_violation")


@fault("html")
async def page(exchange: Exchange) -> None:
    """A page with status 200, as from a captive portal."""
    await exchange.whole(b"<html><body>Welcome</body></html>", 200, "text/html")


@fault("html-502")
async def bad_gateway(exchange: Exchange) -> None:
    """A proxy's page."""
    await exchange.whole(b"<html><body>Bad Gateway</body></html>", 502, "text/html")


@fault("reset-before-headers")
async def reset(exchange: Exchange) -> None:
    """The request is read, the connection reset."""
    raise Reset


@fault("silence")
async def silence(exchange: Exchange) -> None:
    """The request is read, nothing is said."""
    await exchange.client_leaves()


@fault("headers-then-silence")
async def headers_only(exchange: Exchange) -> None:
    """A good beginning, and nothing."""
    if exchange.stream:
        await exchange.events()
    else:
        await exchange.head(200, "content-type: application/json", "content-length: 1000")
    await exchange.client_leaves()


@fault("slow-first")
async def slow(exchange: Exchange) -> None:
    """The first token takes as many seconds as the parameter."""
    await asyncio.sleep(exchange.parameter)
    await well(exchange)


async def cut(exchange: Exchange) -> None:
    """40 of 60 tokens, or half of the answer."""
    if exchange.stream:
        await exchange.events()
        return await exchange.tokens(0, CUT)
    body = exchange.answer()
    await exchange.head(200, "content-type: application/json", f"content-length: {len(body)}")
    await exchange.raw(body[: len(body) // 2])


@fault("cut-fin")
async def cut_fin(exchange: Exchange) -> None:
    """The connection is closed in order, in the middle."""
    await cut(exchange)
    raise Fin


@fault("cut-rst")
async def cut_rst(exchange: Exchange) -> None:
    """The connection is reset in the middle."""
    await cut(exchange)
    await asyncio.sleep(TICK)  # a reset may overtake what was sent
    raise Reset


@fault("eof-clean")
async def eof(exchange: Exchange) -> None:
    """HTTP is complete, the answer is not: no finish reason, or half of the JSON."""
    if exchange.stream:
        await exchange.events()
        await exchange.tokens(0, CUT)
        return await exchange.end()
    await exchange.whole(exchange.answer()[:-100])


@fault("stall")
async def stall(exchange: Exchange) -> None:
    """20 tokens, or half of the answer, then nothing."""
    if exchange.stream:
        await exchange.events()
        await exchange.tokens(0, EARLY)
    else:
        body = exchange.answer()
        await exchange.head(200, "content-type: application/json", f"content-length: {len(body)}")
        await exchange.raw(body[: len(body) // 2])
    await exchange.client_leaves()


@fault("malformed")
async def malformed(exchange: Exchange) -> None:
    """What is no JSON, after 20 tokens."""
    if not exchange.stream:
        return await exchange.whole(b'{"choices": [{')
    await exchange.events()
    await exchange.tokens(0, EARLY)
    await exchange.event('{"choices": [{"delta"')
    await exchange.tokens(EARLY, len(TOKENS))
    await exchange.finish()


@fault("malformed-first")
async def malformed_first(exchange: Exchange) -> None:
    """What is no JSON, at once."""
    if not exchange.stream:
        return await exchange.whole(b"null")
    await exchange.events()
    await exchange.event("}{")
    await exchange.finish()


IN_BAND = {"error": {"message": "overloaded", "type": "server_error", "code": 503}}


@fault("error-first")
async def error_first(exchange: Exchange) -> None:
    """Status 200, and the first event is an error."""
    if not exchange.stream:
        return await exchange.whole(json.dumps(IN_BAND).encode())
    await exchange.events()
    await exchange.event(IN_BAND)
    await exchange.end()


@fault("error-mid")
async def error_mid(exchange: Exchange) -> None:
    """An error among the events, after 20 tokens."""
    if not exchange.stream:
        return await exchange.whole(json.dumps(IN_BAND).encode())
    await exchange.events()
    await exchange.tokens(0, EARLY)
    await exchange.event(IN_BAND)
    await exchange.end()


@fault("no-done")
async def no_done(exchange: Exchange) -> None:
    """All is there but ``[DONE]``."""
    if not exchange.stream:
        return await well(exchange)
    await exchange.events()
    await exchange.tokens(0, len(TOKENS))
    await exchange.finish(done=False)


@fault("wrong-length")
async def wrong_length(exchange: Exchange) -> None:
    """The content-length is larger than what comes."""
    if not exchange.stream:
        body = exchange.answer()[:-100]
        await exchange.head(
            200, "content-type: application/json", f"content-length: {len(body) + 100}"
        )
        await exchange.raw(body)
        raise Fin
    await exchange.head(200, "content-type: text/event-stream", "content-length: 100000")
    for token in TOKENS[:CUT]:
        await exchange.raw(f"data: {json.dumps(exchange.delta({'content': token}))}\n\n".encode())
        exchange.attempt.tokens_sent += 1
    raise Fin


@fault("half-event")
async def half_event(exchange: Exchange) -> None:
    """The stream ends in order, within an event."""
    if not exchange.stream:
        return await exchange.whole(exchange.answer()[: -len(TEXT)])
    await exchange.events()
    await exchange.tokens(0, CUT)
    await exchange.chunk(b'data: {"id": "x", "choices": [{"ind')
    await exchange.end()


@fault("split-utf8")
async def split_utf8(exchange: Exchange) -> None:
    """Chunks end within a character."""
    if not exchange.stream:
        body = exchange.answer(UNICODE)
        at = body.index("🦜".encode()) + 2
        await exchange.head(200, "content-type: application/json", f"content-length: {len(body)}")
        await exchange.raw(body[:at])
        await asyncio.sleep(TICK)
        return await exchange.raw(body[at:])
    await exchange.events()
    text = json.dumps(exchange.delta({"content": UNICODE}), ensure_ascii=False)
    data = f"data: {text}\n\n".encode()
    at = data.index("🦜".encode()) + 2
    for part in (data[:at], data[at : at + 1], data[at + 1 :]):
        await exchange.chunk(part)
        await asyncio.sleep(TICK)
    await exchange.finish()


@fault("endless")
async def endless(exchange: Exchange) -> None:
    """Tokens for ever; the parameter is the pause between two."""
    if not exchange.stream:
        await exchange.head(200, "content-type: application/json", "transfer-encoding: chunked")
    else:
        await exchange.events()
    for number in itertools.count():
        if exchange.stream:
            await exchange.tokens(number % len(TOKENS), number % len(TOKENS) + 1)
        else:
            await exchange.chunk(b" ")
        await asyncio.sleep(exchange.parameter or TICK)


@fault("big-event")
async def big_event(exchange: Exchange) -> None:
    """One event, or one answer, of 10 MB."""
    text = "x" * BIG
    if not exchange.stream:
        return await exchange.whole(exchange.answer(text))
    await exchange.events()
    await exchange.event(exchange.delta({"content": text}))
    await exchange.finish()


@fault("flapping")
async def flapping(exchange: Exchange) -> None:
    """Down until the parameter's seconds have passed since the name first came; then well."""
    await (exchange.error(503, "down") if exchange.parameter > 0 else well(exchange))


@fault("empty")
async def empty(exchange: Exchange) -> None:
    """An answer without a choice."""
    if not exchange.stream:
        body = {**json.loads(exchange.answer()), "choices": []}
        return await exchange.whole(json.dumps(body).encode())
    await exchange.events()
    await exchange.event("[DONE]")
    await exchange.end()


@fault("never-content")
async def never_content(exchange: Exchange) -> None:
    """Events for ever, and no content in any of them."""
    if not exchange.stream:
        return await silence(exchange)
    await exchange.events()
    while True:
        await exchange.event(exchange.delta({"role": "assistant", "content": ""}))
        await asyncio.sleep(0.05)


@fault("comments")
async def comments(exchange: Exchange) -> None:
    """Comments before and between the events."""
    if not exchange.stream:
        return await well(exchange)
    await exchange.events()
    for number in range(len(TOKENS)):
        await exchange.chunk(b": ping\n\n")
        await exchange.tokens(number, number + 1)
    await exchange.chunk(b": ping\r\n\r\n")
    await exchange.finish()


@attrs.define(eq=False)
class Wall:
    """The server, in a thread of its own."""

    port: int = 0
    attempts: list[Attempt] = attrs.field(factory=list[Attempt], init=False)
    open_connections: int = attrs.field(default=0, init=False)
    _seen: dict[str, tuple[int, float]] = attrs.field(
        factory=dict[str, tuple[int, float]], init=False
    )
    _change: threading.Condition = attrs.field(factory=threading.Condition, init=False)
    _loop: asyncio.AbstractEventLoop | None = attrs.field(default=None, init=False)
    _stopped: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self._thread.start()
        self.wait_until(lambda: self._loop is not None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(WAIT)

    async def serve(self) -> None:
        """Listen until stopped."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        with self._change:
            self.port = server.sockets[0].getsockname()[1]
            self._loop = asyncio.get_running_loop()
            self._change.notify_all()
        await self._stopped.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def of(self, model: str) -> list[Attempt]:
        """The attempts with this model name."""
        with self._change:
            return [attempt for attempt in self.attempts if attempt.model == model]

    def reset(self) -> None:
        """Forget what has been."""
        with self._change:
            self.attempts.clear()
            self._seen.clear()

    def wait_until(self, true: Callable[[], bool], timeout: float = WAIT) -> None:
        """Return once ``true()`` holds, looked at whenever anything here changes."""
        with self._change:
            if not self._change.wait_for(true, timeout):
                raise AssertionError(f"not within {timeout} s: {self.attempts}")

    async def until(self, true: Callable[[], bool], timeout: float = WAIT) -> None:  # noqa: ASYNC109
        """``wait_until`` for a test on an event loop, which goes on meanwhile."""
        await anyio.to_thread.run_sync(self.wait_until, true, timeout)

    def wait_closed(self, timeout: float = WAIT) -> None:
        """Return once no connection is open."""
        self.wait_until(lambda: self.open_connections == 0, timeout)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine: list[Attempt] = []
        self._changed(1)
        try:
            async for exchange in self._requests(reader, writer, mine):
                name = exchange.attempt.model.partition(":")[0].partition("@")[0]
                await FAULTS.get(name, well)(exchange)
        except Reset:
            linger = struct.pack("ii", 1, 0)
            with suppress(OSError):  # the client was faster
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        except (Fin, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            for attempt in mine:
                attempt.closed_at = time.monotonic()
            self._changed(-1)

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mine: list[Attempt]
    ) -> AsyncIterator[Exchange]:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            pairs = (line.partition(": ") for line in head[1:] if line)
            headers = {name.lower(): value for name, _, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            if path.startswith("/_"):
                await self._control(method, path, writer)
                continue
            asked = json.loads(body or b"{}")
            model = str(asked.get("model", ""))
            attempt = Attempt(model, bool(asked.get("stream")), headers, time.monotonic())
            mine.append(attempt)
            with self._change:
                self.attempts.append(attempt)
                self._change.notify_all()
            usage = bool((asked.get("stream_options") or {}).get("include_usage"))
            yield Exchange(attempt, self._parameter(model), usage, reader, writer)

    def _parameter(self, model: str) -> float:
        name, _, text = model.partition(":")[0].partition("@")
        number = float(text) if text.replace(".", "", 1).isdigit() else 0.0
        times, first = self._seen.get(model, (0, time.monotonic()))
        self._seen[model] = times + 1, first
        if name == "500-once":
            return times
        return first + number - time.monotonic() if name == "flapping" else number

    async def _control(self, method: str, path: str, writer: asyncio.StreamWriter) -> None:
        if (method, path) == ("POST", "/_reset"):
            self.reset()
        body = json.dumps([attrs.asdict(attempt) for attempt in self.attempts]).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        writer.write(f"{head}\r\n\r\n".encode() + body)
        await writer.drain()

    def _changed(self, opened: int) -> None:
        with self._change:
            self.open_connections += opened
            self._change.notify_all()


if __name__ == "__main__":
    asyncio.run(Wall(int(sys.argv[1])).serve())
