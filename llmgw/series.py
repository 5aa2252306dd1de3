"""Series: the Prometheus families of the toolkit, and their children by label.

Figures are noted in passing and counted by the library later, many at once: a value that is counted
by itself takes up to two locks and 80 bytecodes, and a request has seven. It uses the library's
private names: a test compares with its own.

Source   the names and buckets are telemetry.py's table. Unknown names must not become labels:
         prometheus.io/docs/practices/naming, "Labels".
"""

from __future__ import annotations

import collections
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import attrs
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Sample
from prometheus_client.values import MutexValue, ValueClass

from llmgw import telemetry
from llmgw.exchange import Exchange

OTHER = "other"
PROVIDERS = 64  # distinct names before the rest is "other"; chosen, litellm knows about 100
CHILDREN = 10_000  # label sets kept at hand; beyond, prometheus_client's own look-up serves; chosen
BATCH = 256  # exchanges until what they noted is counted; chosen: 0.1 ms at once, some 16 KB
KINDS = "input", "output"  # of tokens
ALONE = ValueClass is MutexValue  # else values lie in files, which other processes read any time

Note = Callable[[float], object]


class Noting(MetricWrapperBase):
    """A metric that is told amounts by ``note``, a function of C, and counts them in ``settle``.

    It settles when somebody looks; who notes must see to it that it does now and then.
    """

    note: Note
    _waiting: array[float]
    _settling = threading.Lock()

    def settle(self) -> None:
        """Count what was noted."""
        children: dict[object, Noting] | None = getattr(self, "_metrics", None)
        if children is not None:  # it is a family
            for child in list(children.values()):
                child.settle()
            return
        with self._settling:
            if amounts := self._waiting[:]:
                del self._waiting[: len(amounts)]  # another thread may note more meanwhile
                self._count(amounts)

    def _count(self, amounts: array[float]) -> None:
        raise NotImplementedError

    def _count_one(self, amount: float) -> None:
        self._count(array("d", (amount,)))

    def _metric_init(self) -> None:
        super()._metric_init()  # type: ignore[no-untyped-call]
        self._waiting = array("d")
        self.note = self._waiting.append if ALONE else self._count_one

    def _child_samples(self) -> Iterable[Sample]:
        self.settle()
        return super()._child_samples()


class NotingHistogram(Noting, Histogram):
    """The library's, which looks for the bucket of each value one by one."""

    _sum: Any
    _buckets: Any

    def _count(self, amounts: array[float]) -> None:
        self._sum.inc(sum(amounts))
        found = map(partial(bisect_left, self._upper_bounds), amounts)
        for bucket, times in collections.Counter(found).items():
            self._buckets[bucket].inc(times)


class NotingCounter(Noting, Counter):
    """The library's."""

    def _count(self, amounts: array[float]) -> None:
        self.inc(sum(amounts))


class NotingGauge(Noting, Gauge):
    """The library's; what goes down is noted as a negative amount."""

    def _count(self, amounts: array[float]) -> None:
        self.inc(sum(amounts))


@attrs.define(eq=False)
class Tally:
    """Where the figures of exchanges with the same labels go; a series begins with its first."""

    families: Families
    call: tuple[str, ...]  # provider, model, status
    took: Note
    ended: Note
    waited: Note | None = None
    tokens: tuple[Note, Note] | None = None  # input, output

    def count(self, exchange: Exchange) -> None:
        """Note an exchange that ends now, and what its accepted run tells."""
        started_at, attempt = exchange.started_at, exchange.answer
        self.took(perf_counter() - started_at)
        self.ended(1)
        if attempt is None:
            return
        if attempt.first_token_at is not None:
            if self.waited is None:
                self.waited = self.families.first_token.labels(*self.call).note
            self.waited(attempt.first_token_at - started_at)
        usage = attempt.usage
        if usage is not None:
            if self.tokens is None:
                family = self.families.tokens
                inputs, outputs = [family.labels(*self.call, kind) for kind in KINDS]
                self.tokens = inputs.note, outputs.note
            sent, got = self.tokens
            sent(usage.prompt_tokens)
            got(usage.completion_tokens)


@attrs.define(eq=False)
class Families:
    """The metric objects of one registry: a second registration of a name would be an error."""

    registry: CollectorRegistry
    requests: NotingCounter = attrs.field(init=False)
    duration: NotingHistogram = attrs.field(init=False)
    active: NotingGauge = attrs.field(init=False)
    first_token: NotingHistogram = attrs.field(init=False)
    tokens: NotingHistogram = attrs.field(init=False)
    providers: set[str] = attrs.field(factory=set[str], init=False)
    noted: int = attrs.field(default=0, init=False)  # exchanges that may not be counted yet

    def __attrs_post_init__(self) -> None:
        """Register the five families."""
        call = ["provider", "model", "status"]
        self.requests = NotingCounter(
            telemetry.REQUESTS, "Exchanges that have ended.", call, registry=self.registry
        )
        self.duration = NotingHistogram(
            telemetry.REQUEST_DURATION,
            "Seconds from the request to the end of the response.",
            ["method", "path", "status"],
            buckets=telemetry.DURATION_BUCKETS,
            registry=self.registry,
        )
        self.active = NotingGauge(
            telemetry.ACTIVE_REQUESTS,
            "Exchanges in flight.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.first_token = NotingHistogram(
            telemetry.FIRST_TOKEN,
            "Seconds from the request to the first content.",
            call,
            buckets=telemetry.FIRST_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self.tokens = NotingHistogram(
            telemetry.TOKEN_USAGE,
            "Tokens of one call; gen_ai_token_type is input or output.",
            [*call, "gen_ai_token_type"],
            buckets=telemetry.TOKEN_BUCKETS,
            registry=self.registry,
        )

    def tally(self, method: str, path: str, status: str, provider: str, model: str) -> Tally:
        """Where to count an exchange with these labels, which must be of bounded sets."""
        call = (provider, model, status)
        took = self.duration.labels(method, path, status)
        return Tally(self, call, took.note, self.requests.labels(*call).note)

    def bound_provider(self, name: str | None) -> str:
        """The provider as a label: at most PROVIDERS distinct ones."""
        if name is None:
            return "none"
        if name not in self.providers:
            if len(self.providers) >= PROVIDERS:
                return OTHER
            self.providers.add(name)
        return name

    def settle(self) -> None:
        """Count what was noted in all families."""
        self.noted = 0
        for family in (self.requests, self.duration, self.active, self.first_token, self.tokens):
            family.settle()


_families: WeakKeyDictionary[CollectorRegistry, Families] = WeakKeyDictionary()
_lock = threading.Lock()


def families_of(registry: CollectorRegistry) -> Families:
    """The families of a registry, made once."""
    with _lock:
        found = _families.get(registry)
        if found is None:
            found = _families[registry] = Families(registry)
        return found
