"""Exporters: where spans go, as the standard variables OTEL_* ask for.

Source   opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from typing import Final

NEEDED: Final = {  # modules, by exporter
    "console": ("opentelemetry.sdk",),
    "otlp": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
}


def exporter_of(environ: Mapping[str, str]) -> tuple[str, str | None] | None:
    """The exporter and the endpoint that OTEL_* ask for; None for no tracing.

    Raises ValueError for what would lose all spans without a word. What else the SDK does not
    understand it warns of, and takes its default.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not endpoint and (base := environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        endpoint = f"{base.rstrip('/')}/v1/traces"
    name = environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "none")
    if name not in ("otlp", "console", "none"):
        raise ValueError(f"OTEL_TRACES_EXPORTER is {name!r}; known: otlp, console, none")
    if name == "none":
        return None
    if name == "otlp" and endpoint and not endpoint.startswith(("http://", "https://")):
        raise ValueError("OTEL_EXPORTER_OTLP_ENDPOINT must begin with http:// or https://")
    delay_of(environ)
    if not all(map(installed, NEEDED[name])):
        raise ValueError("OTEL_* ask for tracing, which needs llmgw[tracing]")
    return name, endpoint or None


def installed(module: str) -> bool:
    """Whether a module is there; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def delay_of(environ: Mapping[str, str]) -> float | None:
    """Milliseconds between two exports, None for the SDK's own. Raises ValueError."""
    value = environ.get("OTEL_BSP_SCHEDULE_DELAY")
    try:
        delay = float(value) if value else None
    except ValueError:
        delay = -1
    if delay is not None and not 0 < delay < math.inf:
        raise ValueError("OTEL_BSP_SCHEDULE_DELAY must be a number of milliseconds above 0")
    return delay


def set_up_tracing(environ: Mapping[str, str], *, service_name: str = "llmgw") -> bool:
    """Set the global tracer provider when OTEL_* name an exporter; whether they did.

    Spans leave by OTLP over HTTP (or to the console) from a thread of the SDK's. Raises ValueError
    for what cannot be, as ``exporter_of`` does.
    """
    wanted = exporter_of(environ)
    if wanted is None:
        return False
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider as SDK  # noqa: N814
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SpanExporter,
    )

    name, endpoint = wanted
    exporter: SpanExporter
    if name == "console":
        exporter = ConsoleSpanExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
            OTLPSpanExporter,
        )

        exporter = OTLPSpanExporter(endpoint=endpoint)
    resource = Resource.create({"service.name": environ.get("OTEL_SERVICE_NAME") or service_name})
    provider = SDK(resource=resource)
    millis = delay_of(environ)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=millis))
    trace.set_tracer_provider(provider)
    return True
