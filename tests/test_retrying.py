"""RetryPolicy: how long to wait, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw import errors
from llmgw.retrying import RetryBudget, RetryPolicy, spread


@given(
    attempt=st.integers(1, 50),
    backoff=st.floats(0, 10),
    backoff_max=st.floats(0, 60),
)
def test_a_wait_is_within_full_jitter(attempt: int, backoff: float, backoff_max: float) -> None:
    """Uniform in [0, min(max, backoff * 2 ** (attempt - 1))]."""
    policy = RetryPolicy(attempts=99, backoff=backoff, backoff_max=backoff_max)

    wait = policy.wait(attempt)

    assert wait is not None
    assert 0 <= wait <= min(backoff_max, backoff * 2 ** (attempt - 1))


def test_waits_differ() -> None:
    """Clients that failed together do not come back together."""
    policy = RetryPolicy(attempts=99)

    assert len({policy.wait(3) for _ in range(20)}) > 1


def test_after_the_last_attempt_there_is_no_wait() -> None:
    """Three in all means two waits."""
    policy = RetryPolicy(attempts=3)

    assert policy.wait(2) is not None
    assert policy.wait(3) is None


@pytest.mark.parametrize("asked", [0, 0.2, 10])
def test_retry_after_replaces_the_wait(asked: float) -> None:
    """With up to a quarter more; what is longer than the limit is for the client to wait."""
    policy = RetryPolicy(retry_after_max=10)
    waits = [policy.wait(1, asked) for _ in range(100)]

    assert all(wait is not None and asked <= wait <= asked * 1.25 for wait in waits)
    assert len(set(waits)) == (100 if asked else 1)
    assert policy.wait(1, 10.1) is None


def test_a_wait_is_spread_by_five_seconds_at_most() -> None:
    """An hour is long enough."""
    assert all(3600 <= spread(3600) <= 3605 for _ in range(100))


def test_an_error_that_a_repeat_does_not_help_is_not_waited_for() -> None:
    """Asked of the error itself."""
    policy = RetryPolicy(backoff=0)

    assert policy.wait_after(1, errors.ProviderUnavailableError("x")) == 0
    assert policy.wait_after(1, errors.RateLimitError("x", retry_after=2)) >= 2  # type: ignore[operator]
    assert policy.wait_after(1, errors.InvalidRequestError("x")) is None
    assert policy.wait_after(1, errors.TimeoutError("x")) is None


@pytest.mark.parametrize("field", ["attempts", "backoff", "backoff_max", "retry_after_max"])
def test_a_policy_that_makes_no_sense_is_refused(field: str) -> None:
    """When it is built."""
    with pytest.raises(ValueError, match=field):
        RetryPolicy(**{field: -1})


def test_a_budget_bounds_the_repeats_of_all_together() -> None:
    """When everything fails, a fifth of the requests is repeated, and the reserve."""
    now = 0.0
    budget = RetryBudget(0.2, reserve=1, clock=lambda: now)
    reserve = sum(budget.withdraw() for _ in range(100))

    repeated = 0
    for _ in range(1000):
        budget.deposit()
        repeated += budget.withdraw()

    assert reserve == 10
    assert 195 <= repeated <= 201


def test_the_reserve_comes_back_with_time() -> None:
    """A service with little traffic can always repeat; what is saved has a bound."""
    now = 0.0
    budget = RetryBudget(0, reserve=1, clock=lambda: now)
    while budget.withdraw():
        pass

    now = 2.0
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
    now = 1e6
    assert sum(budget.withdraw() for _ in range(100)) == 20


def test_a_budget_of_nothing_repeats_nothing() -> None:
    """Not even once."""
    assert not RetryBudget(0, reserve=0).withdraw()
