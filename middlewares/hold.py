"""Hold: a stream that is slow to begin is answered with keep-alive comments until it does.

Reads    the request body, at most ``max_body`` bytes, which is held: only for ``stream: true``.
Writes   200, the headers of an event stream and ``: keepalive`` comments, when nothing has come
         within ``hold_s``; then the app's own start is swallowed.
Raises   InvalidRequestError when the body is no chat request; when the stream is held open and the
         app answers anything but an event stream, the error that its status means.
Place    below ErrorMap, which ends a held stream that fails with an error event. Above Fallback,
         Retry and Deadline, which go on below a response that the client already has.
Source   server-sent events: html.spec.whatwg.org, "Authoring notes" (a comment about every 15 s).
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

import anyio
import attrs

from llmgw.asgi import BODY, START, ASGIApp, Message, Receive, Scope, Send, find_header
from llmgw.body import read_whole_body, replayed
from llmgw.errors import from_status
from llmgw.exchange import EXCHANGE, Exchange, outermost
from llmgw.sse import COMMENT, HEADERS
from llmgw.stack import Place
from llmgw.wire import read_call

ON = "it goes on below a response that the client already has"
PLACE = Place(
    below={
        "ErrorMap": "a held stream that fails needs its error event",
        "Auth": "a stranger gets no stream",
        "Cache": "a hit is at once",
    },
    above=dict.fromkeys(("Inference", "Deadline", "Fallback", "Retry"), ON),
)
HOLD, HEARTBEAT = 10.0, 10.0  # seconds; below the 15 s after which proxies grow impatient
MAX_BODY = 10 << 20  # bytes; the gateway's default for limits.max_body_bytes


@attrs.frozen
class HoldMiddleware:
    """Begin a stream's response after ``hold_s`` seconds, if the app has not."""

    app: ASGIApp
    hold_s: float = attrs.field(default=HOLD, kw_only=True)
    heartbeat_s: float = attrs.field(default=HEARTBEAT, kw_only=True)
    max_body: int = attrs.field(default=MAX_BODY, kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if scope.get("method") != "POST":  # this is no HTTP, or no call
            return await self.app(scope, receive, send)
        if EXCHANGE not in scope:  # it is the outermost
            return await outermost(self, self.app, scope, receive, send)
        exchange: Exchange = scope[EXCHANGE]
        limit = self.max_body
        body = replayed(receive, limit) or await read_whole_body(receive, limit=limit)
        if not body.complete:
            exchange.left = True
            return
        if not body.decode(read_call).stream:
            return await body.watch(exchange, partial(self.app, scope, body, send))
        held = Held(self.heartbeat_s, send)
        main = partial(self.app, scope, body, held)
        await body.watch(exchange, main, beside=held.beat, after=self.hold_s)
        held.check(exchange)


@attrs.define(eq=False)
class Held:
    """A ``send`` for the app, and the beat that begins the response if the app does not."""

    heartbeat_s: float
    send: Send
    lock: anyio.Lock | None = None  # the response is ours, and a comment never cuts into an event
    begun: bool = False  # the app's own has begun
    refused: int | None = None  # the status of what is no stream, behind a 200 of ours

    def __call__(self, message: Message) -> Awaitable[None]:
        """Send the app's message, if it still can be sent."""
        if message["type"] == START:
            self.begun = True
        return self.send(message) if self.lock is None else self._send(message, self.lock)

    async def _send(self, message: Message, lock: anyio.Lock) -> None:
        if message["type"] == START:
            kind = find_header(message.get("headers", ()), b"content-type") or b""
            good = message["status"] == 200 and kind.startswith(b"text/event-stream")
            self.refused = None if good else message["status"]
        elif self.refused is None:
            async with lock:
                await self.send(message)

    async def beat(self) -> None:
        """Begin the response, and go on with comments until the app's own begins."""
        if self.begun:
            return
        lock = self.lock = anyio.Lock()
        async with lock:
            await self.send({"type": START, "status": 200, "headers": HEADERS})
            await self.send({"type": BODY, "body": COMMENT, "more_body": True})
        while True:
            await anyio.sleep(self.heartbeat_s)
            async with lock:
                if self.begun:
                    return
                await self.send({"type": BODY, "body": COMMENT, "more_body": True})

    def check(self, exchange: Exchange) -> None:
        """Raise what the app's refusal means, when its own response could not be sent."""
        if self.refused is not None and not exchange.left:
            raise from_status(self.refused if self.refused >= 400 else 502, provider="app")
