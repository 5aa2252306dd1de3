"""The gateway: two lists of layers, a table of paths, and the ``app`` that servers run.

``uvicorn llmgw.apps.gateway:app`` serves it, as ``llmgw serve`` does.
Importing this module builds nothing: the app is built at lifespan startup, or at the first request.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager

import attrs

from llmgw import logs
from llmgw.apps.catalog import Models, models_of
from llmgw.apps.completion import CompletionApp
from llmgw.apps.health import HealthApp
from llmgw.apps.metrics import MetricsApp
from llmgw.apps.models import ModelsApp
from llmgw.apps.settings import Settings, SettingsError, load, refusal
from llmgw.apps.shutdown import drained_by_sigterm
from llmgw.apps.table import GET, POST, Route, Table
from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.cooldown import MemoryCooldown
from llmgw.drain import Drain
from llmgw.exporters import set_up_tracing
from llmgw.middlewares.access_log import AccessLogMiddleware
from llmgw.middlewares.admission import AdmissionMiddleware
from llmgw.middlewares.auth import AuthMiddleware
from llmgw.middlewares.deadline import DeadlineMiddleware
from llmgw.middlewares.drain import DrainMiddleware
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.middlewares.fallback import FallbackMiddleware
from llmgw.middlewares.hold import HoldMiddleware
from llmgw.middlewares.inference import InferenceMiddleware
from llmgw.middlewares.loop_guard import LoopGuardMiddleware
from llmgw.middlewares.loopback import LoopbackMiddleware
from llmgw.middlewares.metrics import MetricsMiddleware
from llmgw.middlewares.request_id import RequestIDMiddleware
from llmgw.middlewares.retry import RetryMiddleware
from llmgw.middlewares.tracing import TracingMiddleware
from llmgw.portal import on_asyncio
from llmgw.providers.base import Clocks, Provider
from llmgw.providers.gateway import default_providers
from llmgw.retrying import RetryBudget, RetryPolicy
from llmgw.stack import Layer, layer, stack
from llmgw.walk import Waits

YOUNG = 50_000  # new objects until the collector looks at them
NO_CACHE = {b"x-cache-status": b"MISS"}  # a cache below says otherwise


def outer_layers(settings: Settings, models: frozenset[str] = frozenset()) -> list[Layer]:
    """The layers around every path, outermost first."""
    return [
        layer(RequestIDMiddleware, headers=NO_CACHE),  # further in, answers above lack the id
        layer(AccessLogMiddleware),  # below ErrorMap it would log no final status
        layer(TracingMiddleware),  # below Metrics its time would miss what Metrics costs
        layer(MetricsMiddleware, models=models),  # below ErrorMap it would miss what clients got
        layer(ErrorMapMiddleware),  # above any of these, an error would pass them unanswered
    ]


def inner_layers(settings: Settings, drain: Drain | None = None) -> list[Layer]:
    """The layers around the model routes only: health and metrics meet no limit."""
    accounts = {key.sha256: key.name for key in settings.keys}
    return [
        layer(DrainMiddleware, drain=drain or Drain()),  # further in, it could not cut all
        layer(AuthMiddleware, keys=accounts)  # further in, strangers would cost us a body
        if accounts
        else layer(LoopbackMiddleware),  # the same place: without keys, this machine is the key
    ]


def call_layers(settings: Settings, models: Models) -> list[Layer]:
    """The layers around a model call: the inner list's end, not needed by ``/v1/models``."""
    retry, times, limits = settings.retry, settings.timeouts, settings.limits
    limit = limits.max_body_bytes
    policy = RetryPolicy(
        attempts=retry.attempts,
        backoff=retry.backoff_s,
        backoff_max=retry.backoff_max_s,
        retry_after_max=retry.retry_after_max_s,
    )
    rest, budget = settings.cooldown, RetryBudget(retry.budget)
    return [
        layer(LoopGuardMiddleware),  # further in, a loop would take places and attempts
        layer(
            AdmissionMiddleware,  # further in, what it refuses would have been held already
            max_concurrent=limits.max_concurrent,
            max_body=limit,
            body_s=times.body_s,
            send_s=times.send_s,
        ),
        layer(
            HoldMiddleware,  # further in, each deployment would begin the client's response
            hold_s=times.hold_s,
            heartbeat_s=times.heartbeat_s,
            max_body=limit,
        ),
        layer(InferenceMiddleware, max_body=limit),  # below Retry it would tell of each attempt
        layer(DeadlineMiddleware, total=times.total_s),  # below Fallback each deployment had one
        layer(
            FallbackMiddleware,  # below Retry each retry would walk the whole chain
            candidates=models.candidates,
            cooldown=MemoryCooldown(rest.failures, rest.for_s, rest.failure_rate, rest.window_s),
            waits=Waits(retry.retry_after_max_s, retry.attempts - 1, budget),
            attempts=retry.attempts_total,
            max_body=limit,
        ),
        layer(
            RetryMiddleware,  # last: it repeats only the app
            policy=policy,
            budget=budget,
            max_body=limit,
        ),
    ]


def build(
    settings: Settings,
    environ: Mapping[str, str],
    providers: Mapping[str, Provider],
    drain: Drain | None = None,
) -> ASGIApp:
    """The gateway's app from its settings; ``drain`` is begun by whoever ends the process."""
    times = settings.timeouts
    models = models_of(settings, environ)
    drain = drain or Drain()
    clocks = Clocks(
        connect=times.connect_s,
        first_token=times.first_token_s,
        failover_first_token=times.failover_first_token_s,
        idle=times.idle_s,
        answer=times.answer_s,
        failover_first_byte=times.failover_first_byte_s,
    )
    completion = CompletionApp(providers, clocks=clocks, max_body=settings.limits.max_body_bytes)
    guard = inner_layers(settings, drain)
    listing = stack(guard, ModelsApp(models.visible))
    health = HealthApp({"models": models.ready, "drain": drain.ready})
    metrics: ASGIApp = MetricsApp()
    if settings.exposed or settings.server.metrics == "key":
        metrics = stack(guard, metrics)
    calls = stack([*guard, *call_layers(settings, models)], completion)
    table = Table(
        {
            "/v1/chat/completions": Route(calls, POST),
            "/v1/models": Route(listing, GET),
            "/v1/models/*": Route(listing, GET),
            "/health": Route(health, GET),
            "/health/live": Route(health, GET),
            "/health/ready": Route(health, GET),
            "/metrics": Route(metrics, GET),
        }
    )
    return stack(outer_layers(settings, frozenset(models.groups)), table)


@asynccontextmanager
async def known_as_asyncio() -> AsyncGenerator[None]:
    """Tell sniffio once which loop runs: anyio asks at every turn, by a system call on 3.11."""
    sniffio = sys.modules.get("sniffio")
    if sniffio is None or not on_asyncio():
        yield
        return
    before, sniffio.thread_local.name = sniffio.thread_local.name, "asyncio"
    try:
        yield
    finally:
        sniffio.thread_local.name = before


@contextmanager
def rare_collections() -> Generator[None]:
    """Keep the collector off what lives as long as the process, and from looking all the time.

    64 requests at once hold 20,000 objects, which would be looked through after each 700 new ones:
    a tenth of the cost of a request. Cycles are still found, and nothing here makes them.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@attrs.define(eq=False)
class Gateway:
    """The app that servers run: reads the settings and builds the gateway when it starts."""

    app: ASGIApp | None = None
    providers: Mapping[str, Provider] = attrs.field(factory=dict[str, Provider])
    drain: Drain = attrs.field(factory=Drain)
    drain_s: float = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange, or one lifespan."""
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        if self.app is None:  # a server without lifespans: nobody will flush the log lines
            self._start(log_wait=0.0)
        assert self.app is not None
        await self.app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._start(log_wait=logs.SOON)
        except SettingsError as exc:
            return await send({"type": "lifespan.startup.failed", "message": str(exc)})
        sigterm = drained_by_sigterm(self.drain, self.drain_s)
        async with sigterm, known_as_asyncio():
            with rare_collections():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        await self.drain.finish(self.drain_s)
        for provider in self.providers.values():
            await provider.aclose()
        logs.flush()
        await send({"type": "lifespan.shutdown.complete"})

    def _start(self, log_wait: float) -> None:
        settings, environ = load(None, os.environ)
        if found := refusal(settings):
            raise SettingsError([found])
        logs.set_up_logging(sys.stdout, wait=log_wait)
        set_up_tracing(environ)
        self.providers = default_providers(
            Clocks(connect=settings.timeouts.connect_s), settings.limits.max_concurrent
        )
        self.drain_s = settings.server.drain_s
        self.app = build(settings, environ, self.providers, self.drain)


app = Gateway()
