"""LoopGuard: refuse a request that this gateway has sent itself.

An ``api_base`` or ``OPENAI_BASE_URL`` that leads back here, directly or through another gateway,
would make thousands of requests of one. Every request that goes upstream carries the ids of the
gateways that it has passed.

Reads    the request header Via: the ids of gateways like this one. Other entries are dropped.
Writes   ``exchange.via``, the header that the completion app sends upstream.
Raises   LoopError (508) when this layer's own id comes back, or after MAX_HOPS gateways.
Place    below ErrorMap, which writes the answer. Above Admission and Fallback: a loop must take no
         place and use no attempt.
Source   Via and loops: RFC 9110, 7.6.3. The status 508: RFC 5842, 7.2.
"""

from __future__ import annotations

import re

import attrs

from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.errors import LoopError
from llmgw.exchange import EXCHANGE, new_id, outermost
from llmgw.stack import Place

LOOP = "a loop must take no place and use no attempt"
PLACE = Place(
    below={"ErrorMap": "only ErrorMap writes errors"},
    above=dict.fromkeys(("Admission", "Hold", "Inference", "Fallback", "Retry"), LOOP),
)
MAX_HOPS = 8  # gateways in a row; chosen. Workers have ids of their own: a loop may pass several
ENTRY = re.compile(rb"llmgw-[0-9a-f]{16}")


def own_entry() -> bytes:
    """A pseudonym for this gateway, as RFC 9110 allows it in place of a host name."""
    return b"llmgw-" + new_id()[:16].encode()


def values_of(scope: Scope, name: bytes) -> list[bytes]:
    """All values of a request header."""
    return [value for key, value in scope["headers"] if key == name]


@attrs.frozen
class LoopGuardMiddleware:
    """Know a request of this gateway by its Via header, and refuse it."""

    app: ASGIApp
    entry: bytes = attrs.field(factory=own_entry, kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if EXCHANGE not in scope:  # it is the outermost, or this is no HTTP
            return await outermost(self, self.app, scope, receive, send)
        via = own = b"1.1 " + self.entry
        passed = [entry for value in values_of(scope, b"via") for entry in ENTRY.findall(value)]
        if passed:
            if self.entry in passed or len(passed) >= MAX_HOPS:
                raise LoopError(
                    "This request has come back to the gateway that sent it: the address of one of "
                    "its deployments leads here."
                )
            via = b", ".join([*(b"1.1 " + entry for entry in passed), own])
        scope[EXCHANGE].via = via
        await self.app(scope, receive, send)
