"""InferenceMiddleware: the span and the log lines of one model call."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import attrs
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llmgw import telemetry
from llmgw.asgi import ASGIApp, Message, Receive, Scope, Send
from llmgw.body import Body
from llmgw.errors import InvalidRequestError, ProviderUnavailableError
from llmgw.exchange import EXCHANGE, Attempt, Exchange, Usage
from llmgw.middlewares.inference import InferenceMiddleware
from llmgw.testing import exchange, no_receive, no_send

REQUEST = b'{"model":"m","temperature":0.3,"messages":[{"role":"user","content":"secret"}]}'


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans: InMemorySpanExporter) -> TracerProvider:
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(spans))
    return made


@pytest.fixture(autouse=True)
def listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="llmgw")


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(one.message) for one in caplog.records if one.name == "llmgw"]


@attrs.define
class Model:
    """An app that answers ``status``, or raises, and notes what it saw."""

    status: int = 200
    error: Exception | None = None
    attempt: Attempt | None = None
    headers: dict[bytes, bytes] = attrs.field(factory=dict[bytes, bytes])
    body: bytes = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert isinstance(receive, Body)
        self.body = (await receive())["body"]
        self.headers = dict(telemetry.inject())
        known: Exchange = scope[EXCHANGE]
        known.answer = self.attempt
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": known.model.encode()})  # type: ignore[union-attr]


async def test_call_leaves_a_span_and_two_lines(
    provider: TracerProvider, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """The span is the upstream's parent, the lines share an id, the prompt is in neither."""
    usage = Usage(3, 4, 7)
    model = Model(attempt=Attempt(provider="openai", usage=usage, finish_reasons=("stop",)))

    reply = await exchange(InferenceMiddleware(model, tracer_provider=provider), REQUEST)

    [span] = spans.get_finished_spans()
    found = dict(span.attributes or {})
    assert span.context is not None
    assert reply.body == b"m"
    assert model.body == REQUEST
    assert f"{span.context.span_id:016x}".encode() in model.headers[b"traceparent"]
    assert span.name == "llm.generate"
    assert found["gen_ai.provider.name"] == "openai"
    assert found["gen_ai.request.temperature"] == 0.3
    assert found["gen_ai.usage.output_tokens"] == 4
    start, end = lines(caplog)
    assert (start["event"], end["event"]) == ("llm_request_start", "llm_request_complete")
    assert start["request_id"] == end["request_id"]
    assert end["duration_ms"] >= 0
    assert "secret" not in span.to_json() + caplog.text


async def test_error_is_recorded_and_goes_on(
    provider: TracerProvider, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """The error that leaves is the one that was raised."""
    error = ProviderUnavailableError("x", provider="groq")

    with pytest.raises(ProviderUnavailableError) as caught:
        await exchange(InferenceMiddleware(Model(error=error), tracer_provider=provider), REQUEST)

    assert caught.value is error
    [span] = spans.get_finished_spans()
    assert (span.attributes or {})["error.type"] == "provider_unavailable"
    assert lines(caplog)[-1]["event"] == "llm_request_error"


@pytest.mark.parametrize(
    ("status", "event"), [(200, "llm_request_complete"), (503, "llm_request_error")]
)
async def test_foreign_app_is_judged_by_its_status(
    status: int, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without an Attempt the status tells how the call ended."""
    await exchange(InferenceMiddleware(Model(status=status)), REQUEST)

    assert lines(caplog)[-1]["event"] == event


async def test_client_that_left_cancels_the_call(
    provider: TracerProvider, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that leaves while the model is asked is an outcome of its own, and no error."""

    async def ask(scope: Scope, receive: Receive, send: Send) -> None:
        assert isinstance(receive, Body)
        await receive.watch(scope[EXCHANGE], anyio.sleep_forever)

    inbox: list[Message] = [{"type": "http.request", "body": REQUEST}]

    async def receive() -> Message:
        return inbox.pop() if inbox else {"type": "http.disconnect"}

    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    await InferenceMiddleware(ask, tracer_provider=provider)(scope, receive, no_send)

    [span] = spans.get_finished_spans()
    assert (span.attributes or {})["llmgw.outcome"] == "cancelled"
    assert lines(caplog)[-1]["outcome"] == "cancelled"


async def test_client_that_left_while_sending_makes_no_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Half a body reaches no app and no log."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    known = Exchange()
    scope: Scope = {"type": "http", "method": "POST", "headers": [], EXCHANGE: known}
    await InferenceMiddleware(note)(scope, receive, no_send)

    assert seen == []
    assert known.left
    assert lines(caplog) == []


@pytest.mark.parametrize("body", [b"{", b'{"model":"m"}', b"x" * 300])
async def test_invalid_request_is_raised_before_the_app(body: bytes) -> None:
    """What is no chat request, or too large, makes no call."""
    with pytest.raises(InvalidRequestError):
        await exchange(InferenceMiddleware(Model(), max_body=200), body)


@pytest.mark.parametrize("scope", [{"type": "lifespan"}, {"type": "http", "method": "GET"}])
async def test_what_is_no_call_passes_through(scope: Scope) -> None:
    """A lifespan and a GET reach the app with the same scope."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    app: ASGIApp = InferenceMiddleware(note)
    await app(scope, no_receive, no_send)

    assert seen[0] is scope
