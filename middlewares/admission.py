"""Admission: what comes in is bounded: requests at once, bytes, and the client's time.

Reads    the request body, at most ``max_body`` bytes, which is held.
Writes   its count; ``exchange.send_s``: a client that does not read a message in that time is gone,
         its ``send`` raises OSError.
Raises   OverloadedError (503) when ``max_concurrent`` exchanges run; InvalidRequestError for a body
         that is too large (413) or too slow (408).
Place    below Auth: a stranger takes no room. Above all that holds something while it waits.
Source   load shedding: "Handling Overload", Site Reliability Engineering, O'Reilly 2016. The
         defaults are chosen.
"""

from __future__ import annotations

import attrs

from llmgw._concurrency.block import Expired, wait_at_most
from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.body import read_whole_body
from llmgw.errors import InvalidRequestError, OverloadedError
from llmgw.exchange import EXCHANGE, Exchange, outermost
from llmgw.stack import Place

ROOM = "what waits there takes room"
PLACE = Place(
    below={"ErrorMap": "only ErrorMap writes errors", "Auth": "a stranger takes no room"},
    above=dict.fromkeys(("Hold", "Inference", "Deadline", "Fallback", "Retry"), ROOM),
)
MAX_CONCURRENT = 1000  # exchanges at once
MAX_BODY = 10 << 20  # bytes; the gateway's default for limits.max_body_bytes
BODY_S, SEND_S = 30.0, 30.0  # seconds for the client to send its body, and to read a message


@attrs.define
class Count:
    """How many exchanges run."""

    running: int = 0


@attrs.frozen
class AdmissionMiddleware:
    """Admit at most ``max_concurrent`` exchanges, with bodies that come whole and in time."""

    app: ASGIApp
    max_concurrent: int = attrs.field(default=MAX_CONCURRENT, kw_only=True)
    max_body: int = attrs.field(default=MAX_BODY, kw_only=True)
    body_s: float = attrs.field(default=BODY_S, kw_only=True)
    send_s: float = attrs.field(default=SEND_S, kw_only=True)
    _count: Count = attrs.field(factory=Count, init=False, repr=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if EXCHANGE not in scope:  # it is the outermost, or this is no HTTP
            return await outermost(self, self.app, scope, receive, send)
        exchange: Exchange = scope[EXCHANGE]
        if self._count.running >= self.max_concurrent:
            raise OverloadedError("The gateway is full: too many requests at once.", retry_after=1)
        self._count.running += 1
        try:
            try:
                body = await wait_at_most(
                    self.body_s, read_whole_body(receive, limit=self.max_body)
                )
            except Expired as exc:
                message = f"The request body did not arrive within {self.body_s:g} s."
                raise InvalidRequestError(message, status=408, code="request_timeout") from exc
            if not body.complete:
                exchange.left = True
                return
            exchange.send_s = self.send_s
            await self.app(scope, body, send)
        finally:
            self._count.running -= 1
