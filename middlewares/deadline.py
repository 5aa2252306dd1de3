"""Deadline: one clock over the whole exchange, whatever happens within.

Reads    the request header ``x-request-timeout`` (seconds): it may shorten the clock, not lengthen
         it.
Writes   ``exchange.deadline``, by which the layers below know what is worth a wait, and
         ``exchange.clock``, which stands still while the client reads: a slow client is not the
         upstream's fault.
Raises   errors.TimeoutError (504) when the clock has run out and the response is not complete;
         InvalidRequestError for a header that is no positive number.
Place    above Fallback and Retry: one clock for all deployments and attempts. Below Inference,
         whose span holds the whole wait.
Source   the law of failure (docs/reliability.md). TOTAL: openai-python's own default, 600 s.
"""

from __future__ import annotations

import math
import time

import attrs

from llmgw import errors
from llmgw._concurrency.block import Block
from llmgw.asgi import ASGIApp, Receive, Scope, Send, request_header
from llmgw.errors import InvalidRequestError
from llmgw.exchange import EXCHANGE, Exchange, outermost
from llmgw.stack import Place

ALL = "one clock for all deployments and attempts"
PLACE = Place(
    below={"ErrorMap": "only ErrorMap writes errors", "Inference": "its span holds the whole wait"},
    above=dict.fromkeys(("Fallback", "Retry"), ALL),
)
TOTAL = 600.0  # seconds; openai-python e43b4224, src/openai/_constants.py
HEADER = b"x-request-timeout"


def seconds_of(value: bytes) -> float:
    """How long the client wants to wait at most."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        name = HEADER.decode()
        raise InvalidRequestError(f"The header {name} is no positive number.", param=name)
    return seconds


@attrs.frozen
class DeadlineMiddleware:
    """Bound every exchange to ``total`` seconds, less the time that the client takes to read."""

    app: ASGIApp
    total: float = attrs.field(default=TOTAL, kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if EXCHANGE not in scope:  # it is the outermost, or this is no HTTP
            return await outermost(self, self.app, scope, receive, send)
        exchange: Exchange = scope[EXCHANGE]
        total, value = self.total, request_header(scope, HEADER)
        if value is not None:
            total = min(total, seconds_of(value))
        exchange.deadline = time.monotonic() + total
        with Block(total) as clock:
            exchange.clock = clock  # it stands still while the client reads
            await self.app(scope, receive, send)
        if clock.cut and not exchange.ended:
            raise errors.TimeoutError(f"The answer was not complete within {total:g} s.")
