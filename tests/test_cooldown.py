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
    """From its first failure on it must, until a success finds no failure in the window."""
    clock = Clock()
    store = MemoryCooldown(window_s=30, clock=clock)

    seen = [store.healthy("a")]
    await store.failure("a")
    await store.success("a")
    seen.append(store.healthy("a"))
    clock.now = 34.0
    await store.success("a")
    seen.append(store.healthy("a"))

    assert seen == [True, False, True]


async def test_failures_open_it_for_a_while(clock: Clock) -> None:
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


@pytest.mark.parametrize(
    ("outcomes", "opens"),
    [
        ("ff", False),  # too few requests failed
        ("fff", True),
        ("fsfsf", True),  # more than half of all
        ("fssfsf", True),  # half of all
        ("fssfssf", False),  # less than half of all
        ("fsssssssssff", False),
        ("fbfbfb", True),  # all of them began well and then broke
    ],
)
async def test_it_opens_by_the_share_of_requests_that_fail(outcomes: str, opens: bool) -> None:
    """At least three, and at least half of all within the window."""
    store = MemoryCooldown(3, 10, 0.5)
    for outcome in outcomes:
        if outcome == "f":
            await store.failure("a")
        else:
            await store.success("a")
            if outcome == "b":
                await store.failure("a", begun=True)

    assert bool((await store.admit("a")).wait) is opens


async def test_failures_of_long_ago_do_not_count(clock: Clock) -> None:
    """Only those within the window do."""
    store = MemoryCooldown(3, 10, window_s=30, clock=clock)
    for now in (0.0, 20.0, 40.0, 60.0):
        clock.now = now
        await store.failure("a")

    assert not (await store.admit("a")).wait
    clock.now = 65.0
    await store.failure("a")
    assert (await store.admit("a")).wait == 10


async def test_as_a_last_resort_an_open_one_is_admitted(clock: Clock) -> None:
    """The first of those who ask probes; the others are not refused either."""
    store = MemoryCooldown(1, 10, clock=clock)
    await store.failure("a")

    assert (await store.admit("a")).wait == 10
    assert (await store.admit("a", last=True)).probe
    assert await store.admit("a", last=True) == module.ADMITTED


async def test_as_a_last_resort_a_limited_one_is_probed_now_and_then(clock: Clock) -> None:
    """An upstream may say an hour by mistake; an answer ends the limit."""
    store = MemoryCooldown(3, 10, clock=clock)
    await store.limit("a", 3600)

    assert (await store.admit("a", last=True)).limited
    clock.now = 10.0
    assert not (await store.admit("a")).probe
    assert (await store.admit("a", last=True)).probe
    assert (await store.admit("a", last=True)).wait == 3590
    await store.limit("a", 3600)
    clock.now = 19.0
    assert (await store.admit("a", last=True)).limited
    clock.now = 20.0
    assert (await store.admit("a", last=True)).probe
    await store.success("a", probe=True)
    assert store.healthy("a")


async def test_a_limit_is_no_failure(clock: Clock) -> None:
    """When its time has come, all may ask."""
    store = MemoryCooldown(1, 10, clock=clock)
    await store.limit("a", 5)

    assert (await store.admit("a")).wait == 5
    clock.now = 5.0
    assert [await store.admit("a") for _ in range(2)] == [module.ADMITTED] * 2
    await store.success("a")
    assert store.healthy("a")


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
    """A later, shorter one does not shorten it."""
    store = MemoryCooldown(3, 10, clock=clock)

    await store.limit("a", 60)
    await store.limit("a", 1)

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
