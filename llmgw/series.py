"""Series: the Prometheus families of the toolkit, and their children by label.

Two ways of the library's are shortened, by its private fields: a test compares with its own.

Source   the names and buckets are telemetry.py's table. Unknown names must not become labels:
         prometheus.io/docs/practices/naming, "Labels".
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import Any
from weakref import WeakKeyDictionary

import attrs
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from llmgw import telemetry
from llmgw.exchange import Attempt

OTHER = "other"
PROVIDERS = 64  # distinct names before the rest is "other"; chosen, litellm knows about 100
CHILDREN = 10_000  # label sets kept at hand; beyond, prometheus_client's own look-up serves; chosen


class QuickHistogram(Histogram):
    """The library's, whose ``observe`` looks for the bucket one by one: 1.5 us, four a request."""

    _sum: Any
    _buckets: Any

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Note a value; exemplars are not used here."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


class QuickGauge(Gauge):
    """The library's without its checks for a child, of which this is one."""

    _value: Any

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
