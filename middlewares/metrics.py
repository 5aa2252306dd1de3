"""Metrics: what the client got, how long it took and how many tokens, for Prometheus.

Reads    the method, the status sent, the Exchange.
Writes   the five families of FAMILIES in ``registry``; every label value comes from a bounded set.
Raises   nothing of its own; what the app raises counts as status 500 and goes on.
Place    above ErrorMap, to count errors as the client got them.
Source   the names and buckets are telemetry.py's table. 499: nginx, NGX_HTTP_CLIENT_CLOSED_REQUEST.
         Unknown model names must not become labels: prometheus.io/docs/practices/naming, "Labels".
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from weakref import WeakKeyDictionary

import attrs
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from llmgw import telemetry
from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.exchange import Attempt, Exchange, enter
from llmgw.stack import Place

PLACE = Place(
    below={"RequestID": "nothing may answer outside of the id"},
    above={"ErrorMap": "below it the final status of an error is not known"},
)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
PROVIDERS = 64  # distinct names before the rest is "other"; chosen, litellm knows about 100
CHILDREN = 10_000  # label sets kept at hand; beyond, prometheus_client's own look-up serves; chosen


class QuickHistogram(Histogram):
    """The library's, whose ``observe`` looks for the bucket one by one: 1.5 us, four a request."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Note a value; exemplars are not used here."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


class QuickGauge(Gauge):
    """The library's without its checks for a child, of which this is one."""

    def inc(self, amount: float = 1) -> None:
        """Add."""
        self._value.inc(amount)

    def dec(self, amount: float = 1) -> None:
        """Take away."""
        self._value.inc(-amount)


@attrs.define(eq=False)
class Call:
    """What is counted of calls with the same labels; a series begins with its first value."""

    families: Families
    labels: tuple[str, ...]
    requests: Counter
    waited: Histogram | None = None
    tokens: tuple[Histogram, Histogram] | None = None  # input, output

    def count(self, started_at: float, attempt: Attempt | None) -> None:
        """Count a call, and what its accepted run tells."""
        self.requests.inc()
        if attempt is None:
            return
        if attempt.first_token_at is not None:
            self.waited = self.waited or self.families.first_token.labels(*self.labels)
            self.waited.observe(attempt.first_token_at - started_at)
        if attempt.usage is not None:
            if self.tokens is None:
                family = self.families.tokens
                sent, got = (
                    family.labels(*self.labels, "input"),
                    family.labels(*self.labels, "output"),
                )
                self.tokens = sent, got
            self.tokens[0].observe(attempt.usage.prompt_tokens)
            self.tokens[1].observe(attempt.usage.completion_tokens)


@attrs.define(eq=False)
class Families:
    """The metric objects of one registry: a second registration of a name would be an error."""

    registry: CollectorRegistry
    requests: Counter = attrs.field(init=False)
    duration: Histogram = attrs.field(init=False)
    active: Gauge = attrs.field(init=False)
    first_token: Histogram = attrs.field(init=False)
    tokens: Histogram = attrs.field(init=False)
    providers: set[str] = attrs.field(factory=set[str], init=False)
    calls: dict[tuple[str, ...], Call] = attrs.field(
        factory=dict[tuple[str, ...], Call], init=False
    )
    durations: dict[tuple[str, ...], Histogram] = attrs.field(
        factory=dict[tuple[str, ...], Histogram], init=False
    )

    def __attrs_post_init__(self) -> None:
        """Register the five families."""
        call = ["provider", "model", "status"]
        self.requests = Counter(
            telemetry.REQUESTS, "Exchanges that have ended.", call, registry=self.registry
        )
        self.duration = QuickHistogram(
            telemetry.REQUEST_DURATION,
            "Seconds from the request to the end of the response.",
            ["method", "path", "status"],
            buckets=telemetry.DURATION_BUCKETS,
            registry=self.registry,
        )
        self.active = QuickGauge(
            telemetry.ACTIVE_REQUESTS,
            "Exchanges in flight.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.first_token = QuickHistogram(
            telemetry.FIRST_TOKEN,
            "Seconds from the request to the first content.",
            call,
            buckets=telemetry.FIRST_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self.tokens = QuickHistogram(
            telemetry.TOKEN_USAGE,
            "Tokens of one call; gen_ai_token_type is input or output.",
            [*call, "gen_ai_token_type"],
            buckets=telemetry.TOKEN_BUCKETS,
            registry=self.registry,
        )

    def call(self, *labels: str) -> Call:
        """The children for a call's labels, found by one look-up and without the library's lock."""
        found = self.calls.get(labels)
        if found is None:
            found = Call(self, labels, self.requests.labels(*labels))
            if len(self.calls) < CHILDREN:
                self.calls[labels] = found
        return found

    def took(self, *labels: str) -> Histogram:
        """The child for an exchange's duration."""
        found = self.durations.get(labels)
        if found is None:
            found = self.duration.labels(*labels)
            if len(self.durations) < CHILDREN:
                self.durations[labels] = found
        return found

    def bound_provider(self, name: str | None) -> str:
        """The provider as a label: at most PROVIDERS distinct ones."""
        if name is None:
            return "none"
        if name not in self.providers:
            if len(self.providers) >= PROVIDERS:
                return OTHER
            self.providers.add(name)
        return name


_families: WeakKeyDictionary[CollectorRegistry, Families] = WeakKeyDictionary()
_lock = threading.Lock()


def families_of(registry: CollectorRegistry) -> Families:
    """The families of a registry, made once."""
    with _lock:
        found = _families.get(registry)
        if found is None:
            found = _families[registry] = Families(registry)
        return found


@attrs.frozen
class MetricsMiddleware:
    """Count and time every exchange."""

    app: ASGIApp
    models: frozenset[str] = attrs.field(default=frozenset(), kw_only=True)
    registry: CollectorRegistry = attrs.field(default=REGISTRY, kw_only=True)
    _found: Families = attrs.field(
        default=attrs.Factory(lambda self: families_of(self.registry), takes_self=True),
        init=False,
        repr=False,
    )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange, scope, receive, send = enter(scope, receive, send)
        error: BaseException | None = None
        self._found.active.inc()
        try:
            await self.app(scope, receive, send)
        except BaseException as exc:
            error = exc
            raise
        finally:
            self._found.active.dec()
            self._count(scope["method"], exchange, str(exchange.final_status(error)))

    def _count(self, method: str, exchange: Exchange, status: str) -> None:
        found, attempt = self._found, exchange.answer
        known = method if method in METHODS else OTHER
        took = time.perf_counter() - exchange.started_at
        found.took(known, exchange.path or OTHER, status).observe(took)

        name = attempt.provider if attempt else exchange.error.provider if exchange.error else None
        model = "none" if exchange.model is None else exchange.model
        model = model if model in self.models or exchange.model is None else OTHER
        call = found.call(found.bound_provider(name), model, status)
        call.count(exchange.started_at, attempt)
