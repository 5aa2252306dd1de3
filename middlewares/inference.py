"""Inference: one model call as the client sees it: the ``llm.generate`` span and two log lines.

Reads    the request body, at most ``max_body`` bytes, which is held; the accepted Attempt.
Writes   ``exchange.model`` and ``exchange.stream``; a span and ``llm_request_start`` with
         ``llm_request_complete`` or ``llm_request_error``. Hands the read Body on as ``receive``.
Raises   InvalidRequestError when the body is no chat request (413: too large).
Place    above Retry and Fallback: one call, however many attempts it took. Below Auth and Cache:
         a stranger or a hit makes no call.
Source   OpenTelemetry semantic conventions for generative AI, "Inference"; the names are
         telemetry.py's table. The log lines: the seed document, "Structured logging".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.body import read_whole_body, replayed
from llmgw.errors import GatewayError
from llmgw.exchange import EXCHANGE, LEFT, Exchange, outermost
from llmgw.stack import Place
from llmgw.telemetry import Inference
from llmgw.wire import read_call

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

PLACE = Place(
    below={
        "Tracing": "the server span is the parent of this one",
        "ErrorMap": "only ErrorMap writes errors",
        "Auth": "a stranger makes no call",
        "Cache": "a hit makes no call",
    },
    above={
        "Deadline": "the span holds the whole wait",
        "Fallback": "one call, however many deployments it took",
        "Retry": "one call, however many attempts it took",
    },
)
MAX_BODY = 10 << 20  # bytes; the gateway's default for limits.max_body_bytes


def outcome_of(exchange: Exchange, error: BaseException | None) -> str:
    """How a call ended: cancelled when the client left before its end, else by error or status."""
    status = exchange.final_status(error)
    if status == LEFT:
        return "cancelled"
    failed = error is not None or not exchange.ended or status >= 400
    return "error" if failed else "completed"


@attrs.frozen
class InferenceMiddleware:
    """Tell of every model call; any method but POST passes through."""

    app: ASGIApp
    max_body: int = attrs.field(default=MAX_BODY, kw_only=True)
    tracer_provider: TracerProvider | None = attrs.field(default=None, kw_only=True)

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
        call = body.decode(read_call)
        exchange.model, exchange.stream = call.model, call.stream
        inference = Inference(call, exchange.request_id or exchange.id, self.tracer_provider)
        inference.start()
        error: BaseException | None = None
        try:
            if inference.span is None:
                await self.app(scope, body, send)
            else:
                with inference.use():
                    await self.app(scope, body, send)
        except BaseException as exc:
            error = exc
            raise
        finally:
            outcome = outcome_of(exchange, error)
            if outcome == "error" and error is None:
                error = GatewayError("The app failed.", code=f"status_{exchange.status or 500}")
            inference.finish(exchange.answer, error, outcome=outcome)
            del error  # its traceback holds this frame: a cycle, with all of the request
