"""Telemetry: names, log lines, spans that cost nothing without a provider, and their set-up."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmgw import errors, telemetry
from llmgw.exchange import Attempt, Usage
from llmgw.telemetry import Inference
from llmgw.wire import Call

CALL = Call(fields={}, model="m", stream=True, temperature=0.5, max_tokens=9)
DONE = Attempt(provider="openai", model="m-1", usage=Usage(3, 4, 7, 2, 1), finish_reasons=("stop",))


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans: InMemorySpanExporter) -> TracerProvider:
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(spans))
    return made


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_span_is_recorded_and_an_error_by_its_kind_only(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """The text of a foreign exception enters no span."""
    with (
        pytest.raises(ValueError, match="secret"),
        telemetry.span("s", "client", {"k": 1}, tracer_provider=provider),
    ):
        raise ValueError("secret")

    [span] = spans.get_finished_spans()
    assert (span.name, span.kind) == ("s", SpanKind.CLIENT)
    assert span.attributes == {"k": 1, "error.type": "ValueError"}
    assert "secret" not in span.to_json()


def test_inject_names_the_current_span(provider: TracerProvider) -> None:
    """An upstream gets the traceparent of the span in whose block it is called, and only there."""
    with telemetry.span("s", tracer_provider=provider) as span:
        assert span is not None
        headers = dict(telemetry.inject([(b"a", b"b")]))

    assert f"{span.get_span_context().span_id:016x}".encode() in headers[b"traceparent"]
    assert headers[b"a"] == b"b"
    assert telemetry.inject() == []


PROBE = """
import sys
from llmgw import exporters, telemetry
from llmgw.wire import Call
assert telemetry.inject([(b"a", b"b")]) == [(b"a", b"b")]
with telemetry.span("s") as span:
    assert span is None
one = telemetry.Inference(Call(fields={}, model="m"))
one.start()
with one.use():
    pass
one.finish(None)
assert not exporters.set_up_tracing({})
assert not exporters.set_up_tracing({"OTEL_TRACES_EXPORTER": "none"})
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
import opentelemetry.trace
assert telemetry.find_provider() is None
"""


def test_without_a_provider_opentelemetry_is_not_even_imported() -> None:
    """Spans, injection and set-up without an exporter leave sys.modules alone."""
    subprocess.run([sys.executable, "-c", PROBE], check=True, timeout=60)


def test_inference_tells_a_complete_call(
    provider: TracerProvider, spans: InMemorySpanExporter, log_stream: io.StringIO
) -> None:
    """The span has the conventions' attributes; the two lines share the request id."""
    inference = Inference(CALL, "r-1", provider)
    inference.start()
    with inference.use():
        assert b"traceparent" in dict(telemetry.inject())
    inference.finish(DONE)
    inference.finish(DONE)

    [span] = spans.get_finished_spans()
    found = dict(span.attributes or {})
    assert (span.name, span.kind) == ("llm.generate", SpanKind.CLIENT)
    assert span.status.status_code is StatusCode.UNSET
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.provider.name"] == "openai"
    assert (found["gen_ai.request.model"], found["gen_ai.response.model"]) == ("m", "m-1")
    assert (found["gen_ai.request.temperature"], found["gen_ai.request.max_tokens"]) == (0.5, 9)
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (3, 4)
    start, end = lines(log_stream)
    assert (start["event"], end["event"]) == ("llm_request_start", "llm_request_complete")
    assert start["request_id"] == end["request_id"] == "r-1"
    assert end["outcome"] == "completed"
    assert isinstance(end["duration_ms"], float)


def test_inference_tells_an_error(
    provider: TracerProvider, spans: InMemorySpanExporter, log_stream: io.StringIO
) -> None:
    """An error leaves its code and provider, not its message."""
    inference = Inference(CALL, "r-1", provider)
    inference.start()
    inference.finish(None, errors.RateLimitError("secret", provider="groq"))

    [span] = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "rate_limit_exceeded"
    assert (span.attributes or {})["gen_ai.provider.name"] == "groq"
    end = lines(log_stream)[-1]
    assert (end["event"], end["error_type"]) == ("llm_request_error", "rate_limit_error")
    assert "secret" not in span.to_json() + log_stream.getvalue()


@pytest.mark.parametrize("error", [None, GeneratorExit(), KeyboardInterrupt()])
def test_call_given_up_is_cancelled(error: BaseException | None, log_stream: io.StringIO) -> None:
    """A caller that leaves early is no failure."""
    inference = Inference(CALL)
    inference.start()
    inference.finish(Attempt(), error)

    assert lines(log_stream)[-1]["outcome"] == "cancelled"
