"""MemoryCooldown: closed, open, one probe."""

from __future__ import annotations

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw import cooldown as module
from llmgw.cooldown import MemoryCooldown


@attrs.define
class Clock:
    """A clock that is set."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_an_unknown_deployment_may_be_asked() -> None:
    """And is no probe."""
    found = await MemoryCooldown().admit("a")

    assert (found.wait, found.probe) == (0, False)


async def test_what_is_healthy_need_not_be_asked_or_told() -> None:
    """From its first failure on it must, until a success has closed it."""
    store = MemoryCooldown()

    seen = [store.healthy("a")]
    await store.failure("a")
    seen.append(store.healthy("a"))
    await store.success("a")
    seen.append(store.healthy("a"))

    assert seen == [True, False, True]


async def test_failures_in_a_row_open_it_for_a_while(clock: Clock) -> None:
    """Then one may probe."""
    store = MemoryCooldown(3, 10, clock=clock)

    waits: list[float] = []
    for _ in range(3):
        waits.append((await store.admit("a")).wait)
        await store.failure("a")
    clock.now = 4.0
    waits.append((await store.admit("a")).wait)

    assert waits == [0, 0, 0, 6]
    assert (await store.admit("b")).wait == 0


async def test_several_failures_can_be_told_at_once(clock: Clock) -> None:
    """Three attempts of one request are three failures."""
    store = MemoryCooldown(3, 10, clock=clock)

    await store.failure("a", count=3)

    assert (await store.admit("a")).wait == 10


async def test_one_probe_at_a_time(clock: Clock) -> None:
    """Until it tells; a failed one opens it anew."""
    store = MemoryCooldown(1, 10, clock=clock)
    await store.failure("a")
    clock.now = 10.0

    assert (await store.admit("a")).probe
    assert (await store.admit("a")).wait > 0
    await store.failure("a")
    assert (await store.admit("a")).wait == 10
    clock.now = 20.0
    assert (await store.admit("a")).probe
    await store.success("a", probe=True)
    assert (await store.admit("a")).wait == 0


async def test_a_probe_that_is_given_back_can_be_had(clock: Clock) -> None:
    """Its client left."""
    store = MemoryCooldown(1, 10, clock=clock)
    await store.failure("a")
    clock.now = 10.0
    await store.admit("a")

    await store.release("a")
    await store.release("never-seen")

    assert (await store.admit("a")).probe


async def test_a_probe_that_tells_nothing_is_lost_after_a_while(clock: Clock) -> None:
    """Else a crash would leave the deployment cooling for ever."""
    store = MemoryCooldown(1, 10, clock=clock)
    await store.failure("a")
    clock.now = 10.0
    await store.admit("a")
    clock.now += module.PROBE

    assert (await store.admit("a")).probe


async def test_old_news_of_success_close_nothing(clock: Clock) -> None:
    """A long stream that began before the failures ends well."""
    store = MemoryCooldown(1, 10, clock=clock)
    await store.failure("a")

    await store.success("a")

    assert (await store.admit("a")).wait == 10


async def test_a_wait_that_is_asked_for_is_kept(clock: Clock) -> None:
    """One failure with Retry-After is enough, and a later, shorter one does not shorten it."""
    store = MemoryCooldown(3, 10, clock=clock)

    await store.failure("a", 60)
    await store.failure("a", 1)

    assert (await store.admit("a")).wait == 60


async def test_it_remembers_no_more_than_its_limit() -> None:
    """Clients that make up names cannot fill the memory."""
    store = MemoryCooldown()
    for number in range(module.LIMIT + 10):
        await store.failure(str(number))

    assert len(store._circuits) == module.LIMIT


@given(st.lists(st.sampled_from(["ask", "good", "bad", "later"]), max_size=60))
def test_whatever_happens_there_is_one_probe_and_no_deadlock(steps: list[str]) -> None:
    """After the pause somebody may always ask again."""

    async def run() -> None:
        clock = Clock()
        store = MemoryCooldown(2, 10, clock=clock)
        probes = 0
        for step in steps:
            if step == "ask":
                found = await store.admit("a")
                probes += found.probe
                assert probes <= 1
                assert found.wait >= 0
            elif step == "good":
                await store.success("a", probe=probes > 0)
                probes = 0
            elif step == "bad":
                await store.failure("a")
                probes = 0
            else:
                clock.now += 1
        clock.now += module.PROBE + 10
        assert not (await store.admit("a")).wait

    anyio.run(run)
