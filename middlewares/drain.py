"""Drain: while the process is ending, new requests are refused and what runs is brought to an end.

Reads    the Drain, which the app's end begins.
Writes   ``exchange.block``, which the client watch below shares; the response header
         ``connection: close`` on a refusal: the next request goes elsewhere.
Raises   OverloadedError (503) for a request that comes too late, or was cut when its time was up.
Place    below ErrorMap, which tells the client; above all that takes time.
Source   the drain of the law of failure (docs/reliability.md).
"""

from __future__ import annotations

import attrs

from llmgw._concurrency.block import Block
from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.drain import Drain
from llmgw.errors import OverloadedError
from llmgw.exchange import EXCHANGE, Exchange, outermost
from llmgw.stack import Place

ALL = "what takes time must be cut by it"
PLACE = Place(
    below={"ErrorMap": "only ErrorMap writes errors"},
    above=dict.fromkeys(("Admission", "Hold", "Inference", "Deadline", "Fallback", "Retry"), ALL),
)
ELSEWHERE = 1.0  # seconds until a repeat makes sense: another process listens


@attrs.frozen
class DrainMiddleware:
    """Refuse what comes after ``drain`` has begun, end what it cuts."""

    app: ASGIApp
    drain: Drain = attrs.field(factory=Drain, kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if EXCHANGE not in scope:  # it is the outermost, or this is no HTTP
            return await outermost(self, self.app, scope, receive, send)
        exchange: Exchange = scope[EXCHANGE]
        if self.drain.begun:
            exchange.headers[b"connection"] = b"close"
            raise OverloadedError("The gateway is shutting down.", retry_after=ELSEWHERE)
        around = exchange.block
        with Block() as running:
            exchange.block = running  # a client that leaves ends it, too
            self.drain.enter(running)
            try:
                await self.app(scope, receive, send)
            finally:
                self.drain.leave(running)
                exchange.block = around
        if running.cut and not exchange.left:
            text = "The gateway shut down before the answer was complete."
            raise OverloadedError(text, retry_after=ELSEWHERE)
