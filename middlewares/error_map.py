"""ErrorMap: the only writer of errors: a JSON body, or in a begun stream one error event.

Reads    the Exchange: the client's key, what has gone out, whether the client left.
Writes   ``exchange.error``; the response, when the app raised instead of giving one.
Raises   what the app raised, when the response had begun and is no event stream at an event's
         boundary: then the server cuts the connection and nobody takes the half for the whole.
Place    below Metrics and AccessLog, which count what the client got; above all that raises.
Source   the error body: OpenAI's API reference, "Error codes". ``x-should-retry``: openai-python
         e43b4224, src/openai/_base_client.py: without it the SDK multiplies our attempts by three.
"""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime

import attrs
import msgspec

from llmgw.asgi import BODY, ASGIApp, Header, Receive, Scope, Send, respond
from llmgw.errors import INTERNAL, AuthError, GatewayError, LoopError, lone, untrace
from llmgw.exchange import EXCHANGE, Exchange, outermost
from llmgw.logs import bounded
from llmgw.stack import Place

ABOVE = "its errors would reach the client as a broken connection"
BELOW = (
    *("Drain", "Auth", "Loopback", "LoopGuard", "Admission", "Hold"),
    *("Inference", "Deadline", "Fallback", "Retry"),
)
PLACE = Place(above=dict.fromkeys(BELOW, ABOVE))
REPEATED = frozenset({408, 409, 429})  # statuses that OpenAI's clients repeat, beside 500 and above

log = logging.getLogger("llmgw")


def status_for(error: GatewayError, exchange: Exchange) -> int:
    """The status for the client; that a provider refused *our* key is not its fault."""
    ours = isinstance(error, AuthError) and error.provider is not None and exchange.key is not None
    return 502 if ours else error.status


def headers_for(error: GatewayError, status: int, exchange: Exchange) -> list[Header]:
    """Retry-After, and for what failed at a provider: do not repeat, we have."""
    tried = error.provider is not None or exchange.attempts > 0 or isinstance(error, LoopError)
    spent = tried and (status in REPEATED or status >= 500)
    return [*error.headers(), *([(b"x-should-retry", b"false")] if spent else [])]


def told(exc: Exception, request_id: str) -> GatewayError:
    """A foreign exception as an error that says nothing of it; where it arose goes to the log."""
    frames = traceback.extract_tb(exc.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
    line = {"event": "unexpected_error", "time": datetime.now(UTC), "request_id": request_id}
    line |= {"type": type(exc).__name__, "where": where}
    log.error("%s", msgspec.json.encode(line).decode())
    return GatewayError(INTERNAL, code="internal_error")


async def answered(raised: Exception, exchange: Exchange, send: Send) -> bool:
    """Tell the client, if it can still be told; False when the server must hear of it."""
    exc = lone(raised)
    if isinstance(exc, OSError) and exchange.left:
        return False  # a server's way to say that the client left
    if isinstance(exc, GatewayError):
        error = exc
    else:
        error = told(exc, bounded(exchange.request_id) or exchange.id)
    exchange.error = error
    if not (exchange.ended or exchange.left):
        if exchange.status is None:
            status = status_for(error, exchange)
            await respond(send, status, error.body(), headers=headers_for(error, status, exchange))
        elif exchange.open_stream:
            await send({"type": BODY, "body": error.frame()})
        else:
            return False
    untrace(error)  # the Exchange holds it
    return True


@attrs.frozen
class ErrorMapMiddleware:
    """Turn what the app raises into what OpenAI's clients understand."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if EXCHANGE not in scope:  # it is the outermost, or this is no HTTP
            return await outermost(self, self.app, scope, receive, send)
        try:
            await self.app(scope, receive, send)
        except Exception as raised:
            if not await answered(raised, scope[EXCHANGE], send):
                raise
