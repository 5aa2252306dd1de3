"""TracingMiddleware: one server span an exchange, and nothing without a provider."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from llmgw.asgi import Receive, Scope, Send
from llmgw.exchange import EXCHANGE
from llmgw.middlewares.tracing import TracingMiddleware
from llmgw.testing import exchange, no_receive, no_send

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans: InMemorySpanExporter) -> TracerProvider:
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(spans))
    return made


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in three chunks with the query string and the current span's id."""
    if EXCHANGE in scope:
        scope[EXCHANGE].path = "/v1/chat/completions"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["query_string"], "more_body": True})
    span = f" {get_current_span().get_span_context().span_id:016x}".encode()
    await send({"type": "http.response.body", "body": span, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def test_one_server_span_an_exchange(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """The span continues the client's trace, is named by the route and has no children a chunk."""
    app = TracingMiddleware(stream, tracer_provider=provider)

    reply = await exchange(app, headers=[(b"traceparent", PARENT)])

    [span] = spans.get_finished_spans()
    assert (span.name, span.kind) == ("POST /v1/chat/completions", SpanKind.SERVER)
    assert span.context is not None
    assert f"{span.context.trace_id:032x}".encode() in PARENT
    assert f"{span.context.span_id:016x}".encode() in reply.body
    found = dict(span.attributes or {})
    assert found["http.request.method"] == "POST"
    assert found["http.response.status_code"] == 200
    assert found["http.route"] == "/v1/chat/completions"
    assert "llmgw.request_id" in found


async def test_secrets_of_a_request_stay_out(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """The query string reaches the app and no span."""
    app = TracingMiddleware(stream, tracer_provider=provider)
    extra = [("query_string", b"api_key=secret")]

    reply = await exchange(app, headers=[(b"authorization", b"Bearer secret")], extra=extra)

    assert b"api_key=secret" in reply.body
    assert "secret" not in spans.get_finished_spans()[0].to_json()


async def test_exception_marks_the_span_by_its_kind_and_goes_on(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """The text of an exception is not recorded."""
    error = ValueError("secret")

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    with pytest.raises(ValueError, match="secret") as caught:
        await exchange(TracingMiddleware(fail, tracer_provider=provider))

    [span] = spans.get_finished_spans()
    assert caught.value is error
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert "secret" not in span.to_json()


async def test_without_a_provider_the_bare_app_is_called() -> None:
    """No provider at the first exchange: the same scope, receive and send."""
    seen: list[object] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend((scope, receive, send))

    scope: Scope = {"type": "http", "method": "GET"}
    await TracingMiddleware(note)(scope, no_receive, no_send)

    assert seen[0] is scope
    assert seen[1:] == [no_receive, no_send]


async def test_other_scope_types_pass_through(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """A lifespan is not an exchange: the same scope, no span."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    await TracingMiddleware(note, tracer_provider=provider)(scope, no_receive, no_send)

    assert seen[0] is scope
    assert spans.get_finished_spans() == ()
