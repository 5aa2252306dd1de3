"""Telemetry: the one table of OTel and Prometheus names, and spans.

OpenTelemetry is never imported here before somebody else did so (``exporters.py``, when it is told
to): a process without a tracer provider pays a dictionary look-up. Nothing written here holds a
prompt, an answer, a key, a query string or the text of a foreign exception.

Source   OpenTelemetry semantic conventions for generative AI and HTTP, as of TABLE; so the buckets.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from llmgw.asgi import Header, RawHeaders, set_headers
from llmgw.errors import GatewayError
from llmgw.exchange import Attempt, new_id
from llmgw.logs import Line, bounded, log, write_line

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind, Tracer, TracerProvider

    from llmgw.wire import Call

TABLE: Final = "2026-10"  # the version of the names below; they are in development and get renamed

# Spans
GENERATE = "llm.generate"  # the seed's name; the convention would be "{operation} {model}"
OPERATION, CHAT = "gen_ai.operation.name", "chat"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_CHOICES = "gen_ai.request.choice.count"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
ERROR_TYPE = "error.type"
HTTP_ROUTE = "http.route"
REQUEST_ID = "llmgw.request_id"
OUTCOME = "llmgw.outcome"  # completed | error | cancelled

# Metrics: OTel's names as Prometheus spells them (dots to underscores, the unit at the end)
REQUESTS = "llmgw_requests"  # a counter: exposed with _total
REQUEST_DURATION = "http_server_request_duration_seconds"
ACTIVE_REQUESTS = "http_server_active_requests"
FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"
TOKEN_USAGE = "gen_ai_client_token_usage"

DURATION_BUCKETS = tuple(round(0.01 * 2**n, 2) for n in range(14))  # seconds; to 81.92
FIRST_TOKEN_BUCKETS = (  # seconds
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
TOKEN_BUCKETS = tuple(float(4**n) for n in range(14))  # tokens; to 67108864


NOTHING: Final = nullcontext()

# -- spans


def find_provider() -> TracerProvider | None:
    """The global tracer provider, None when none was set; OpenTelemetry is not imported for it."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    found: TracerProvider = api.get_tracer_provider()
    return None if isinstance(found, api.ProxyTracerProvider | api.NoOpTracerProvider) else found


@functools.lru_cache(maxsize=4)
def tracer_of(provider: TracerProvider) -> Tracer:
    """The toolkit's tracer; the SDK would build a new one for each call."""
    return provider.get_tracer("llmgw")


def kind_of(name: str) -> SpanKind:
    """``"client"`` as OpenTelemetry's constant."""
    from opentelemetry.trace import SpanKind

    return SpanKind[name.upper()]


def error_type(error: BaseException) -> str:
    """The word for an error in spans and logs: a code of ours or a class's name, never its text."""
    if isinstance(error, GatewayError):
        return error.code or error.type
    return type(error).__name__


def tell_run(line: Line, run: Attempt) -> None:
    """Write into a log line what the accepted run tells."""
    line.provider = run.provider
    usage = run.usage
    if usage is not None:
        line.input_tokens, line.output_tokens = usage.prompt_tokens, usage.completion_tokens


def tell_error(line: Line, error: Exception) -> None:
    """Write into a log line what went wrong, and at whom."""
    if isinstance(error, GatewayError):
        line.error_type, line.error_code = error.type, error.code
        line.provider = line.provider or error.provider
    else:
        line.error_type = error_type(error)


def fail(span: Span, error: BaseException) -> None:
    """Mark a span as failed, by the error's kind alone."""
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute(ERROR_TYPE, error_type(error))
    span.set_status(Status(StatusCode.ERROR, error_type(error)))


@contextmanager
def span(
    name: str,
    kind: str = "internal",
    attributes: Mapping[str, Any] | None = None,
    *,
    tracer_provider: TracerProvider | None = None,
) -> Generator[Span | None]:
    """The current span of its block; None, and nothing done, without a tracer provider."""
    provider = tracer_provider or find_provider()
    if provider is None:
        yield None
        return
    with tracer_of(provider).start_as_current_span(
        name,
        kind=kind_of(kind),
        attributes=attributes,
        record_exception=False,  # its text may hold anything
        set_status_on_exception=False,
    ) as found:
        try:
            yield found
        except Exception as exc:
            fail(found, exc)
            raise


def inject(headers: RawHeaders = ()) -> list[Header]:
    """``headers`` with the traceparent (and tracestate) of the current span, for an upstream.

    Baggage stays here: a client could make us carry it to a third party.
    """
    if "opentelemetry.trace" not in sys.modules:
        return list(headers)
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return set_headers(headers, {key.encode(): value.encode() for key, value in carrier.items()})


# -- what a model call leaves


class Inference(Struct, eq=False):
    """One model call as the client sees it: its span, and two log lines linked by ``request_id``.

    No context is held between ``start()`` and ``finish()``, so a ``yield`` may lie between them;
    make the span current with ``with inference.use():`` where no yield does.
    """

    call: Call
    request_id: str = field(default_factory=new_id)
    tracer_provider: TracerProvider | None = None
    started_at: float = 0.0  # time.perf_counter()
    span: Span | None = None  # from start() on, with a tracer provider
    _finished: bool = False

    def start(self) -> None:
        """Begin: the span, as a child of the current one, and ``llm_request_start``."""
        self.started_at, call = perf_counter(), self.call
        line = Line(
            event="llm_request_start",
            request_id=self.request_id,
            model=call.model,
            stream=call.stream,
        )
        write_line(log, line)
        provider = self.tracer_provider or find_provider()
        if provider is None:
            return
        found: dict[str, Any] = {
            OPERATION: CHAT,
            REQUEST_MODEL: call.model,
            REQUEST_STREAM: call.stream,
            REQUEST_TEMPERATURE: call.temperature,
            REQUEST_MAX_TOKENS: call.max_tokens,
            REQUEST_CHOICES: call.choices if call.choices > 1 else None,
            REQUEST_ID: self.request_id,
        }
        given = {key: value for key, value in found.items() if value is not None}
        self.span = tracer_of(provider).start_span(
            GENERATE, kind=kind_of("client"), attributes=given
        )

    def use(self) -> AbstractContextManager[object]:
        """A block in which the span is the current one; its errors are not recorded twice."""
        if self.span is None:
            return NOTHING
        from opentelemetry.trace import use_span

        return use_span(self.span, record_exception=False, set_status_on_exception=False)

    def finish(
        self,
        attempt: Attempt | None,
        error: BaseException | None = None,
        *,
        outcome: str | None = None,
    ) -> None:
        """End, once: by an error, complete, or cancelled (the client left, nothing finished)."""
        if self._finished:
            return
        self._finished = True
        if error is not None and not isinstance(error, Exception):
            error, outcome = None, "cancelled"  # a cancellation or GeneratorExit is no failure
        if outcome is None:
            done = attempt is not None and attempt.finish_reasons
            outcome = "error" if error is not None else "completed" if done else "cancelled"
        failure = error if outcome == "error" else None
        line = Line(
            event="llm_request_error" if outcome == "error" else "llm_request_complete",
            request_id=self.request_id,
            duration_ms=round((perf_counter() - self.started_at) * 1000, 2),
            outcome=outcome,
            model=self.call.model,
        )
        if attempt is not None:
            line.finish_reasons = attempt.finish_reasons or None
            tell_run(line, attempt)
        if failure is not None:
            tell_error(line, failure)
        write_line(log, line)
        if self.span is not None:
            self._end(self.span, attempt or Attempt(), failure, outcome)

    def _end(self, span: Span, run: Attempt, error: BaseException | None, outcome: str) -> None:
        usage, first = run.usage, run.first_token_at
        found: dict[str, Any] = {
            PROVIDER: run.provider or getattr(error, "provider", None),
            RESPONSE_ID: bounded(run.response_id),
            RESPONSE_MODEL: bounded(run.model),
            FINISH_REASONS: run.finish_reasons or None,
            FIRST_CHUNK: None if first is None else first - self.started_at,
            INPUT_TOKENS: usage and usage.prompt_tokens,
            OUTPUT_TOKENS: usage and usage.completion_tokens,
            CACHED_TOKENS: (usage and usage.cached_tokens) or None,
            REASONING_TOKENS: (usage and usage.reasoning_tokens) or None,
            OUTCOME: outcome,
        }
        span.set_attributes({key: value for key, value in found.items() if value is not None})
        if error is not None:
            fail(span, error)
        span.end()
