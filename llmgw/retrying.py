"""The one retry policy: how long to wait before the same deployment is asked again, or not at all.

Used by the Retry layer and by ``LLMGatewayProvider.generate``. tenacity's ``stop`` and ``wait`` are
consulted only after a failure: around a success they would cost 20 us.

Source   full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
         The budget: Finagle's RetryBudget (20 %, and 10 a second for services with little traffic).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import attrs
import tenacity
from attrs.validators import ge
from tenacity.wait import wait_base

from llmgw.errors import GatewayError

ATTEMPTS = 3  # a deployment, the first included; openai-python's default
BACKOFF, BACKOFF_MAX = 0.5, 8.0  # seconds; openai-python e43b4224, src/openai/_constants.py
RETRY_AFTER_MAX = 10.0  # seconds; chosen: longer is for the client to wait


def full_jitter(policy: RetryPolicy) -> wait_base:
    """tenacity's own, which knows the formula."""
    return tenacity.wait_random_exponential(multiplier=policy.backoff, max=policy.backoff_max)


SPREAD, SPREAD_MAX = 0.25, 5.0  # of the wait; seconds. Chosen


def spread(seconds: float) -> float:
    """A wait that an upstream asked for, and up to a quarter more: not all come back at once."""
    return seconds + random.uniform(0, min(seconds * SPREAD, SPREAD_MAX))


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """``attempts`` in all; wait n is uniform in [0, min(backoff_max, backoff * 2**(n - 1))].

    A provider's Retry-After, spread a little, replaces the wait; beyond ``retry_after_max`` seconds
    nothing is repeated.
    """

    attempts: int = attrs.field(default=ATTEMPTS, validator=ge(1))
    backoff: float = attrs.field(default=BACKOFF, validator=ge(0))
    backoff_max: float = attrs.field(default=BACKOFF_MAX, validator=ge(0))
    retry_after_max: float = attrs.field(default=RETRY_AFTER_MAX, validator=ge(0))
    _wait: wait_base = attrs.field(
        default=attrs.Factory(full_jitter, takes_self=True), init=False, repr=False, eq=False
    )

    def wait(self, attempt: int, retry_after: float | None = None) -> float | None:
        """Seconds to wait after ``attempt`` (from 1) has failed; None: do not try again."""
        if attempt >= self.attempts:
            return None
        if retry_after is not None:
            return spread(retry_after) if retry_after <= self.retry_after_max else None
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = attempt
        return float(self._wait(state))

    def wait_after(self, attempt: int, error: GatewayError) -> float | None:
        """The same for an error: None when it would not help to ask again."""
        return self.wait(attempt, error.retry_after) if error.same else None


BUDGET, RESERVE_PER_S = 0.2, 10.0  # retries a request; retries a second whatever the traffic
BUDGET_S = 10.0  # seconds of reserve that can be saved


@attrs.define(eq=False, on_setattr=attrs.setters.NO_OP)  # else each deposit would be validated
class RetryBudget:
    """How many repeats all exchanges of a layer may make together: a token bucket.

    Each exchange puts in ``share``, each second RESERVE_PER_S; a repeat takes one. When everything
    fails, the load on what is failing stays near 1 + ``share`` times the traffic, not ``attempts``.
    """

    share: float = attrs.field(default=BUDGET, validator=ge(0))
    reserve: float = attrs.field(default=RESERVE_PER_S, validator=ge(0), kw_only=True)
    clock: Callable[[], float] = attrs.field(default=time.monotonic, kw_only=True)
    _tokens: float = attrs.field(
        default=attrs.Factory(lambda self: self.reserve * BUDGET_S, takes_self=True), init=False
    )
    _at: float = attrs.field(
        default=attrs.Factory(lambda self: self.clock(), takes_self=True), init=False
    )

    def deposit(self) -> None:
        """An exchange has come."""
        self._tokens += self.share

    def withdraw(self) -> bool:
        """Whether one more repeat may be made; if so, it is counted."""
        now = self.clock()
        limit = (self.reserve + 1) * BUDGET_S
        self._tokens = min(limit, self._tokens + (now - self._at) * self.reserve)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
