"""The gateway: two lists of layers, a table of paths, and the ``app`` that servers run.

``uvicorn llmgw.apps.gateway:app`` serves it, as ``llmgw serve`` does.
Importing this module builds nothing: the app is built at lifespan startup, or at the first request.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import attrs

from llmgw import telemetry
from llmgw.apps.completion import CompletionApp
from llmgw.apps.health import HealthApp
from llmgw.apps.metrics import MetricsApp
from llmgw.apps.models import ModelsApp
from llmgw.apps.settings import (
    Settings,
    SettingsError,
    deployment_of,
    load,
    refusal,
)
from llmgw.apps.shutdown import drained_by_sigterm
from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.cooldown import MemoryCooldown
from llmgw.drain import Drain
from llmgw.errors import GatewayError, InvalidRequestError, NotFoundError, PermissionDeniedError
from llmgw.exchange import EXCHANGE, Deployment, Exchange
from llmgw.middlewares.access_log import AccessLogMiddleware
from llmgw.middlewares.admission import AdmissionMiddleware
from llmgw.middlewares.auth import AuthMiddleware
from llmgw.middlewares.deadline import DeadlineMiddleware
from llmgw.middlewares.drain import DrainMiddleware
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.middlewares.fallback import FallbackMiddleware
from llmgw.middlewares.hold import HoldMiddleware
from llmgw.middlewares.inference import InferenceMiddleware
from llmgw.middlewares.loopback import LoopbackMiddleware
from llmgw.middlewares.metrics import MetricsMiddleware
from llmgw.middlewares.request_id import RequestIDMiddleware
from llmgw.middlewares.retry import RetryMiddleware
from llmgw.middlewares.tracing import TracingMiddleware
from llmgw.providers import keys
from llmgw.providers.base import Clocks, Provider
from llmgw.providers.gateway import default_providers
from llmgw.retrying import RetryBudget, RetryPolicy
from llmgw.routing import Candidate, Group, order_of
from llmgw.stack import Layer, layer, stack

ECHO = "echo"  # the model that is served when nothing else is configured


def outer_layers(settings: Settings, models: frozenset[str] = frozenset()) -> list[Layer]:
    """The layers around every path, outermost first."""
    return [
        layer(
            RequestIDMiddleware, headers={b"x-cache-status": b"MISS"}
        ),  # else answers below lack the id
        layer(AccessLogMiddleware),  # below ErrorMap it would log no final status
        layer(TracingMiddleware),  # below Metrics its time would miss what Metrics costs
        layer(
            MetricsMiddleware, models=models
        ),  # below ErrorMap it would not count errors as the client got them
        layer(
            ErrorMapMiddleware
        ),  # above any of these, an error would pass them without a response
    ]


def inner_layers(settings: Settings, drain: Drain | None = None) -> list[Layer]:
    """The layers around the model routes only: health and metrics meet no limit."""
    accounts = {key.sha256: key.name for key in settings.keys}
    return [
        layer(
            DrainMiddleware, drain=drain or Drain()
        ),  # further in, it could not cut what is there
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
    rest = settings.cooldown
    return [
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
            cooldown=MemoryCooldown(rest.failures, rest.for_s),
            attempts=retry.attempts_total,
            max_body=limit,
        ),
        layer(
            RetryMiddleware,  # last: it repeats only the app
            policy=policy,
            budget=RetryBudget(retry.budget),
            max_body=limit,
        ),
    ]


@attrs.frozen
class Route:
    """What serves a path: an app, and the methods it knows."""

    app: ASGIApp
    methods: frozenset[str]


GET, POST = frozenset({"GET", "HEAD"}), frozenset({"POST"})


@attrs.frozen
class Table:
    """Path -> app. What is not listed is 404; a path that ends in ``/*`` covers all below it."""

    routes: Mapping[str, Route]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange by the app of its path. Raises NotFoundError, or a 405."""
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 1008, "reason": "not served"})
        path: str = scope["path"]
        template = path if path in self.routes else f"{path.rpartition('/')[0]}/*"
        while template not in self.routes and template.count("/") > 1:
            template = f"{template[:-2].rpartition('/')[0]}/*"
        route = self.routes.get(template)
        if route is None:
            raise NotFoundError("There is nothing at this path.", code="not_found")
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is not None:
            exchange.path = template
        method: str = scope["method"]
        if method not in route.methods:
            if exchange is not None:
                exchange.headers[b"allow"] = ", ".join(sorted(route.methods)).encode()
            message = f"The method {method[:16]!r} is not allowed here."
            raise InvalidRequestError(message, status=405, code="method_not_allowed")
        await route.app(scope, receive, send)


@attrs.frozen
class Models:
    """Where a model's name leads: the groups of the config, else by the provider's prefix.

    A deployment whose key is missing is no candidate; ``broken`` has the errors that say so, and
    whoever asks for a group of only such gets the first.
    """

    groups: Mapping[str, Group]
    broken: Mapping[str, Sequence[GatewayError]]
    environ: Mapping[str, str] = attrs.field(repr=False)
    open: bool = False  # names outside the groups are served too
    allowed: Mapping[str, frozenset[str]] = attrs.field(factory=dict[str, frozenset[str]])  # by key

    def visible(self, exchange: Exchange) -> list[str]:
        """The models that the client's key may ask for."""
        allowed = self.allowed.get(exchange.key or "")
        return [name for name in self.groups if allowed is None or name in allowed]

    def candidates(self, exchange: Exchange) -> list[Candidate]:
        """The deployments for an exchange, in the order in which they are to be asked.

        Raises PermissionDeniedError; NotFoundError, AuthError when there is none.
        """
        allowed = self.allowed.get(exchange.key or "")
        if allowed is not None and exchange.model not in allowed:
            raise PermissionDeniedError("This key may not use this model.", param="model")
        return self.find(exchange.model or "")

    def find(self, model: str) -> list[Candidate]:
        """The deployments of a model. Raises NotFoundError, AuthError when a key is missing."""
        if model in self.groups:
            if found := order_of(self.groups, model):
                return found
            raise self.broken[model][0]
        if not self.open or model == ECHO:
            raise NotFoundError("This model is not served here.", param="model")
        return [Candidate(keys.resolve(model, self.environ), model)]

    @property
    def summary(self) -> str:
        """What is served, in one line."""
        providers = keys.configured(self.environ)
        if list(self.groups) == [ECHO] and not providers:
            return "no provider key and no config, serving the offline model `echo`"
        named = [", ".join(f"`{name}`" for name in self.groups)] if self.groups else []
        by_prefix = [f"any model of {', '.join(providers)}"] if self.open and providers else []
        return "serving " + ("; ".join([*named, *by_prefix]) or "nothing: no model is configured")

    @property
    def problems(self) -> list[str]:
        """What will fail when it is asked for."""
        return [
            f"model {name!r}: {error.message}"
            for name, errors in self.broken.items()
            for error in errors
        ]

    async def ready(self) -> str | None:
        """For readiness: why no model can be served, None if one can."""
        served = any(group.candidates for group in self.groups.values())
        by_prefix = self.open and keys.configured(self.environ)
        return None if served or by_prefix else "no model can be served"

    @property
    def samples(self) -> list[str]:
        """A model of each group, and of each provider with a key."""
        return [
            *self.groups,
            *(keys.SAMPLES[name] for name in keys.configured(self.environ) if name in keys.SAMPLES),
        ]


def models_of(settings: Settings, environ: Mapping[str, str]) -> Models:
    """The models that the settings and the environment give."""
    known: dict[Deployment, Candidate] = {}  # one in two groups has one load and one health
    groups: dict[str, Group] = {}
    broken: dict[str, list[GatewayError]] = {}
    for model in settings.models:
        candidates: list[Candidate] = []
        for number, wanted in enumerate(model.deployments):
            try:
                found = deployment_of(wanted, environ)
            except GatewayError as exc:
                broken.setdefault(model.name, []).append(exc)
            else:
                made = Candidate(found, f"{model.name}/{number}/{found.name}")
                candidates.append(known.setdefault(found, made))
        groups[model.name] = Group(candidates, model.strategy, model.fallbacks)
    if not groups and not keys.configured(environ):
        groups[ECHO] = Group([Candidate(keys.resolve(ECHO, environ), ECHO)])
    wish = settings.server.open_models
    return Models(
        groups,
        broken,
        environ,
        open=not settings.exposed if wish is None else wish,
        allowed={key.name: frozenset(key.models) for key in settings.keys if key.models},
    )


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
        idle=times.idle_s,
        answer=times.answer_s,
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
        if self.app is None:
            self._start()
        assert self.app is not None
        await self.app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._start()
        except SettingsError as exc:
            return await send({"type": "lifespan.startup.failed", "message": str(exc)})
        async with drained_by_sigterm(self.drain, self.drain_s):
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await self.drain.finish(self.drain_s)
        for provider in self.providers.values():
            await provider.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    def _start(self) -> None:
        settings, environ = load(None, os.environ)
        if found := refusal(settings):
            raise SettingsError([found])
        telemetry.set_up_logging(sys.stdout)
        telemetry.set_up_tracing(environ)
        self.providers = default_providers(Clocks(connect=settings.timeouts.connect_s))
        self.drain_s = settings.server.drain_s
        self.app = build(settings, environ, self.providers, self.drain)


app = Gateway()
