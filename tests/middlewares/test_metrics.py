"""MetricsMiddleware and the app that renders what it counted."""

from __future__ import annotations

import time

import anyio
import pytest
from prometheus_client import CollectorRegistry

from llmgw.apps.metrics import metrics_app
from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.exchange import EXCHANGE, Attempt, Exchange, Usage
from llmgw.middlewares.metrics import MetricsMiddleware
from llmgw.series import BATCH, PROVIDERS, families_of
from llmgw.testing import exchange, no_receive, no_send

CALL = {"provider": "openai", "model": "m", "status": "200"}
ACTIVE = "http_server_active_requests"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def answering(model: str, provider: str = "openai") -> ASGIApp:
    """An app that tells what the layers of a gateway would, and answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        known: Exchange = scope[EXCHANGE]
        known.model, known.path = model, "/v1/x"
        first = time.perf_counter()
        known.answer = Attempt(provider=provider, usage=Usage(3, 4, 7), first_token_at=first)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    return app


async def test_exchange_is_counted_and_timed(registry: CollectorRegistry) -> None:
    """One exchange moves each family once."""
    await exchange(MetricsMiddleware(answering("m"), registry=registry, models=frozenset({"m"})))

    http = {"method": "POST", "path": "/v1/x", "status": "200"}
    value = registry.get_sample_value
    assert value("llmgw_requests_total", CALL) == 1
    assert value("http_server_request_duration_seconds_count", http) == 1
    assert value("gen_ai_server_time_to_first_token_seconds_count", CALL) == 1
    assert value("gen_ai_client_token_usage_sum", {**CALL, "gen_ai_token_type": "input"}) == 3
    assert value("gen_ai_client_token_usage_sum", {**CALL, "gen_ai_token_type": "output"}) == 4
    assert value(ACTIVE) == 0


async def test_active_requests_are_seen_while_they_run(registry: CollectorRegistry) -> None:
    """The gauge is one inside an exchange."""
    seen: list[float | None] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(registry.get_sample_value(ACTIVE))
        await answering("m")(scope, receive, send)

    await exchange(MetricsMiddleware(look, registry=registry))

    assert seen == [1]


async def test_unknown_names_do_not_become_labels(registry: CollectorRegistry) -> None:
    """A thousand invented models, methods and paths make one series."""
    for number in range(50):
        app = MetricsMiddleware(answering(f"x{number}"), registry=registry)
        await exchange(app, method=f"M{number}", path=f"/{number}")

    text = (await exchange(metrics_app(registry), method="GET")).body.decode()
    counters = [line for line in text.splitlines() if line.startswith("llmgw_requests_total")]
    assert counters == ['llmgw_requests_total{model="other",provider="openai",status="200"} 50.0']
    assert "M1" not in text


def test_providers_are_bounded(registry: CollectorRegistry) -> None:
    """Beyond the bound a new provider is "other", a known one stays itself."""
    families = families_of(registry)
    named = [families.bound_provider(f"p{number}") for number in range(PROVIDERS + 5)]

    assert named[-1] == "other"
    assert families.bound_provider("p0") == "p0"
    assert families.bound_provider(None) == "none"


async def test_foreign_app_is_counted(registry: CollectorRegistry) -> None:
    """An app that knows no Exchange counts by status, with path "other" and no model."""

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    await exchange(MetricsMiddleware(plain, registry=registry), method="GET", path="/secret")

    labels = {"provider": "none", "model": "none", "status": "404"}
    assert registry.get_sample_value("llmgw_requests_total", labels) == 1
    http = {"method": "GET", "path": "other", "status": "404"}
    assert registry.get_sample_value("http_server_request_duration_seconds_count", http) == 1


async def test_exception_counts_as_500_and_goes_on(registry: CollectorRegistry) -> None:
    """What the app raises leaves as it is."""
    error = ValueError("x")

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    with pytest.raises(ValueError, match="x") as caught:
        await exchange(MetricsMiddleware(fail, registry=registry))

    assert caught.value is error
    labels = {"provider": "none", "model": "none", "status": "500"}
    assert registry.get_sample_value("llmgw_requests_total", labels) == 1
    assert registry.get_sample_value(ACTIVE) == 0


async def test_cancelled_exchange_counts_as_499(registry: CollectorRegistry) -> None:
    """The gauge comes back and the count says that nobody waited for the end."""

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01) as scope:
        await exchange(MetricsMiddleware(hang, registry=registry))

    assert scope.cancelled_caught
    labels = {"provider": "none", "model": "none", "status": "499"}
    assert registry.get_sample_value("llmgw_requests_total", labels) == 1
    assert registry.get_sample_value(ACTIVE) == 0


async def test_what_is_not_yet_counted_is_bounded(registry: CollectorRegistry) -> None:
    """Also where nobody ever looks."""
    app, families = MetricsMiddleware(answering("m"), registry=registry), families_of(registry)
    for _ in range(BATCH + 1):
        await exchange(app)

    assert families.noted == 1


async def test_two_layers_share_a_registry(registry: CollectorRegistry) -> None:
    """A second layer registers nothing twice and counts into the same families."""
    for _ in "12":
        app = MetricsMiddleware(answering("m"), registry=registry, models=frozenset({"m"}))
        await exchange(app)

    assert registry.get_sample_value("llmgw_requests_total", CALL) == 2


async def test_other_scope_types_pass_through(registry: CollectorRegistry) -> None:
    """A lifespan is not an exchange: the same scope."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    await MetricsMiddleware(note, registry=registry)(scope, no_receive, no_send)

    assert seen[0] is scope


@pytest.mark.parametrize(
    ("accept", "kind"),
    [(b"text/plain", b"text/plain"), (b"application/openmetrics-text", b"application/openmetrics")],
)
async def test_exposition_follows_the_accept_header(
    registry: CollectorRegistry, accept: bytes, kind: bytes
) -> None:
    """Prometheus gets the format it asks for."""
    families_of(registry)

    reply = await exchange(metrics_app(registry), method="GET", headers=[(b"accept", accept)])

    assert reply.headers[b"content-type"].startswith(kind)
    assert b"http_server_active_requests 0.0" in reply.body
    assert reply.body.endswith(b"# EOF\n") == (kind == b"application/openmetrics")
