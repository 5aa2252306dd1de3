"""Walk: in which order a request asks deployments, and for which it waits."""

from __future__ import annotations

import math

import anyio
import pytest

from llmgw.cooldown import MemoryCooldown
from llmgw.errors import (
    AuthError,
    GatewayError,
    InvalidRequestError,
    NotFoundError,
    ProviderUnavailableError,
    RateLimitError,
    TimeoutError,
)
from llmgw.exchange import Deployment
from llmgw.retrying import RetryBudget
from llmgw.routing import Candidate
from llmgw.walk import Turn, Waits, Walk

DOWN = ProviderUnavailableError("down", provider="p")
SOON = 0.01  # seconds that a test really waits


def limited(seconds: float) -> GatewayError:
    return RateLimitError("limited", provider="p", retry_after=seconds)


def place(name: str, limit_wait: float = 0) -> Candidate:
    return Candidate(Deployment("p", "m", name=name), name, limit_wait=limit_wait)


ABC = [place("a"), place("b"), place("c")]


async def opened(*names: str) -> MemoryCooldown:
    """A cooldown in which these have just failed."""
    store = MemoryCooldown(1, 10, clock=lambda: 0.0)
    for name in names:
        await store.failure(name)
    return store


async def next_of(walk: Walk, remaining: float = math.inf) -> str | None:
    turn = await turn_of(walk, remaining)
    return None if turn is None else turn.candidate.id


async def turn_of(walk: Walk, remaining: float = math.inf) -> Turn | None:
    return await walk.next(lambda: remaining)


async def order(walk: Walk, *errors: GatewayError | None) -> list[str]:
    """The deployments as they are asked, each of which fails by the next error."""
    names: list[str] = []
    for error in errors:
        turn = await turn_of(walk)
        if turn is None:
            break
        names.append(turn.candidate.id)
        if error is not None:
            await walk.failed(turn, error)
            await walk.release(turn)
    return names


async def test_those_that_cool_are_asked_last() -> None:
    """But they are asked."""
    walk = Walk(ABC, await opened("a", "b"))

    turns = [await turn_of(walk) for _ in range(4)]

    assert [turn and turn.candidate.id for turn in turns] == ["c", "a", "b", None]


async def test_a_healthy_turn_needs_no_wait() -> None:
    """What has failed is asked of the cooldown; at the end there is none."""
    walk = Walk(ABC, await opened("b"))

    first = walk.healthy()

    assert first is not None
    assert (first.candidate.id, first.left) == ("a", 2)
    assert walk.healthy() is None
    assert [await next_of(walk) for _ in range(2)] == ["c", "b"]
    assert walk.healthy() is None


async def test_a_lone_deployment_that_cools_is_asked_as_if_it_did_not() -> None:
    """With all its attempts, by every request."""
    store = await opened("a")
    walks = [Walk(ABC[:1], store) for _ in range(3)]

    turns = [await turn_of(walk) for walk in walks]

    assert [turn and turn.single for turn in turns] == [False] * 3


async def test_a_probe_has_one_attempt_while_others_are_left_and_comes_again_at_the_end() -> None:
    """Without a cooldown it would have had them all."""
    store = MemoryCooldown(1, 10, clock=lambda: now)
    now = 0.0
    await store.failure("a")
    now = 10.0
    walk = Walk(ABC[:2], store)

    first = await turn_of(walk)
    assert first is not None
    assert (first.candidate.id, first.single) == ("a", True)
    await walk.failed(first, DOWN)
    assert await next_of(walk) == "b"
    last = await turn_of(walk)

    assert last is not None
    assert (last.candidate.id, last.single) == ("a", False)
    assert await turn_of(walk) is None


@pytest.mark.parametrize("error", [TimeoutError("x", provider="p"), AuthError("x", provider="p")])
async def test_what_was_silent_is_not_asked_again(error: GatewayError) -> None:
    """Nor what refused our key: only what a repeat may change."""
    store = MemoryCooldown(1, 10, clock=lambda: now)
    now = 0.0
    await store.failure("a")
    now = 10.0

    assert await order(Walk(ABC[:2], store), error, DOWN, DOWN) == ["a", "b"]


async def test_a_limited_deployment_is_left_alone_by_all_at_once() -> None:
    """Another request's walk hears of it."""
    store = MemoryCooldown()
    assert await order(Walk(ABC[:2], store), limited(60), None) == ["a", "b"]

    assert await order(Walk(ABC[:2], store), None, None) == ["b"]


async def test_if_all_are_limited_the_first_that_is_free_is_waited_for() -> None:
    """The wait that was asked for, and no other deployment."""
    walk = Walk(ABC[:2])
    walk.cooldown = MemoryCooldown(clock=lambda: walk.waited)  # time passes only by waiting

    assert await order(walk, limited(60), limited(SOON), None) == ["a", "b", "b"]
    assert walk.waited >= SOON


async def test_a_request_waits_a_few_times_and_no_more() -> None:
    """Its attempts would be endless, one each time the upstream says: soon."""
    walk = Walk(ABC[:1], waits=Waits(number=2))
    walk.cooldown = MemoryCooldown(clock=lambda: walk.waited)

    assert await order(walk, *[limited(SOON)] * 9) == ["a"] * 3


@pytest.mark.parametrize(
    ("waits", "remaining"),
    [
        (Waits(longest=19), math.inf),
        (Waits(longest=60), 19),
        (Waits(longest=60, number=0), math.inf),
    ],
)
async def test_a_wait_that_does_not_fit_is_not_begun(waits: Waits, remaining: float) -> None:
    """Too long, longer than the deadline leaves, or none allowed.

    Neither by the request that was told to wait, nor by the next one, which is not sent at all.
    """
    store = MemoryCooldown()
    first, second = (Walk(ABC[:1], store, waits) for _ in range(2))
    turn = await turn_of(first, remaining)
    assert turn is not None
    await first.failed(turn, limited(20))

    assert await turn_of(first, remaining) is None
    assert await turn_of(second, remaining) is None

    refusal = second.refusal()
    assert isinstance(refusal, RateLimitError)
    assert refusal.retry_after is not None
    assert 10 < refusal.retry_after <= 20


async def test_a_repeat_that_is_not_in_the_budget_is_not_waited_for() -> None:
    """But a request that was not sent yet is no repeat."""
    store, waits = MemoryCooldown(), Waits(longest=60, budget=RetryBudget(0, reserve=0))

    assert await order(Walk(ABC[:1], MemoryCooldown(), waits), limited(20), None) == ["a"]
    await store.limit("a", SOON)
    assert await order(Walk(ABC[:1], store, waits), None) == ["a"]


async def test_those_who_waited_come_back_spread_out() -> None:
    """Not all at the very end of the limit."""
    store = MemoryCooldown()
    await store.limit("a", 0.2)
    waited: list[float] = []

    async def wait() -> None:
        walk = Walk(ABC[:1], store)
        assert await turn_of(walk) is not None
        waited.append(walk.waited)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(wait)

    assert len(set(waited)) == 10


async def test_a_short_limit_may_be_waited_out_before_another_is_asked() -> None:
    """By the one who was told, and by others."""
    store = MemoryCooldown()
    patient = [place("a", limit_wait=2), place("b")]

    assert await order(Walk(patient, store), limited(SOON), None) == ["a", "a"]
    await store.limit("a", SOON)
    assert await order(Walk(patient, store), None) == ["a"]
    assert await order(Walk(patient, store), limited(3), None) == ["a", "b"]


async def test_a_request_at_fault_tells_nothing() -> None:
    """However often; nor does an error of the gateway's own."""
    store = MemoryCooldown(1)
    for error in (InvalidRequestError("x", provider="p"), RateLimitError("ours")):
        assert await order(Walk(ABC[:1], store), error) == ["a"]

    assert store.healthy("a")


@pytest.mark.parametrize("candidates", [[], ABC[:1]])
async def test_a_walk_ends(candidates: list[Candidate]) -> None:
    """Also an empty one, which says that there is no such model."""
    walk = Walk(candidates)
    turns = [await turn_of(walk) for _ in range(2)]

    assert turns[-1] is None
    assert isinstance(walk.refusal(), NotFoundError)
