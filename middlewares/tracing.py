"""Tracing: the server span of an exchange, by OpenTelemetry's own ASGI middleware.

Reads    the request header ``traceparent``; ``exchange.path`` for the span's name.
Writes   one span, current for the app within. No span a chunk, no metrics, no query string, no
         header that may hold a secret, no text of an exception.
Raises   nothing of its own. Without a tracer provider at the first exchange it is not there at all.
Place    below AccessLog and above Metrics: the span holds all the work below. Above ErrorMap, so
         that the span has the status the client got.
Source   opentelemetry-instrumentation-asgi 0.66b2: it puts ``query_string`` into url attributes,
         so it is given a scope without one; the app within gets its own scope. Names: HTTP semantic
         conventions.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import attrs

from llmgw.asgi import START, ASGIApp, Message, Receive, Scope, Send
from llmgw.exchange import Exchange, enter
from llmgw.logs import WORD_LIMIT, bounded
from llmgw.stack import Place
from llmgw.telemetry import HTTP_ROUTE, REQUEST_ID, fail, find_provider

if TYPE_CHECKING:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.trace import Span, TracerProvider

PLACE = Place(
    below={
        "RequestID": "the span carries the id",
        "AccessLog": "the line comes after the span has ended",
    },
    above={
        "Metrics": "the span holds all the work below",
        "ErrorMap": "below it the final status of an error is not known",
    },
)
SECRET_HEADERS = ["authorization", "cookie", ".*key.*", ".*secret.*", ".*token.*"]
METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)


def name_span(scope: Scope) -> tuple[str, dict[str, Any]]:
    """The method alone: the route's template is not known yet, the raw path has no bound."""
    return scope["method"] if scope["method"] in METHODS else "HTTP", {}


def instrument(provider: TracerProvider) -> OpenTelemetryMiddleware:
    """OpenTelemetry's middleware: no span a message, no metrics, the stable names."""
    from opentelemetry.instrumentation._semconv import _StabilityMode
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.util.http import (
        OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS as SANITIZE,
    )
    from opentelemetry.util.http import get_custom_headers

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        """Stand in for the app; every exchange brings its own."""

    otel = OpenTelemetryMiddleware(
        nothing,
        default_span_details=name_span,
        tracer_provider=provider,
        meter_provider=NoOpMeterProvider(),
        http_capture_headers_sanitize_fields=[*SECRET_HEADERS, *get_custom_headers(SANITIZE)],
        exclude_spans=["send", "receive"],
    )
    # What OTEL_SEMCONV_STABILITY_OPT_IN=http would do, had nobody read that variable before us.
    otel._sem_conv_opt_in_mode = _StabilityMode.HTTP
    return otel


@attrs.define(eq=False)
class Choice:
    """What was decided at the first exchange."""

    off: bool = False
    otel: OpenTelemetryMiddleware | None = None


@attrs.frozen
class TracingMiddleware:
    """Give every exchange a server span, if there is a tracer provider."""

    app: ASGIApp
    tracer_provider: TracerProvider | None = attrs.field(default=None, kw_only=True)
    _choice: Choice = attrs.field(factory=Choice, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        choice = self._choice
        if choice.off or scope["type"] != "http":
            return await self.app(scope, receive, send)
        if choice.otel is None:
            provider = self.tracer_provider or find_provider()
            if provider is None:
                choice.off = True
                return await self.app(scope, receive, send)
            choice.otel = instrument(provider)
        await self._trace(choice.otel, scope, receive, send)

    async def _trace(
        self, shared: OpenTelemetryMiddleware, scope: Scope, receive: Receive, send: Send
    ) -> None:
        from opentelemetry.trace import get_current_span

        exchange, scope, receive, send = enter(scope, receive, send)
        failed: list[Exception] = []

        async def call_app(_: Scope, receive: Receive, send: Send) -> None:
            span = get_current_span()

            async def send_and_name(message: Message) -> None:
                if message["type"] == START:  # the span may end with the last message
                    describe(span, scope["method"], exchange)
                await send(message)

            try:
                await self.app(scope, receive, send_and_name)
            except Exception as exc:
                fail(span, exc)
                failed.append(exc)

        otel = copy.copy(shared)  # it keeps per-exchange state on itself
        otel.app = call_app
        shown = {**scope, "query_string": b"", "path": scope["path"][:WORD_LIMIT]}
        await otel(shown, receive, send)
        if failed:
            raise failed[0]


def describe(span: Span, method: str, exchange: Exchange) -> None:
    """Name the span by its route, and link it to the log lines."""
    if exchange.path is not None:
        span.update_name(f"{method if method in METHODS else 'HTTP'} {exchange.path}")
        span.set_attribute(HTTP_ROUTE, exchange.path)
    span.set_attribute(REQUEST_ID, bounded(exchange.request_id) or exchange.id)
