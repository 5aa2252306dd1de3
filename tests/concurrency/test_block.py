"""Block: what was ended by it stays in it, everything else goes through; on both loops."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from llmgw._concurrency.block import Block
from llmgw.portal import on_asyncio


async def hang() -> None:
    """Wait for what never comes."""
    await anyio.Event().wait()


async def test_a_clock_ends_it() -> None:
    """Nothing is raised, ``cut`` tells it, and what follows can wait."""
    with anyio.fail_after(60):
        with Block(0.01) as block:
            await hang()
        await anyio.lowlevel.checkpoint()

    assert block.cut


async def test_in_time_nothing_happens() -> None:
    """Also where the clock would have run out afterwards."""
    with Block(0.2) as block:
        await anyio.lowlevel.checkpoint()
    await anyio.sleep(0.25)

    assert not block.cut


async def test_another_task_ends_it() -> None:
    """By ``cancel``."""
    with anyio.fail_after(60):
        block = Block()
        async with anyio.create_task_group() as tasks:
            with block:
                tasks.start_soon(later, block)
                await hang()

    assert block.cut


async def later(block: Block) -> None:
    """End a block."""
    await anyio.lowlevel.checkpoint()
    block.cancel()


async def test_it_can_end_itself() -> None:
    """At its next wait; a block without one ends as if nothing had been asked."""
    with anyio.fail_after(60):
        with Block() as block:
            block.cancel()
            await hang()
        with Block() as other:
            other.cancel()
        for _ in range(3):
            await anyio.lowlevel.checkpoint()

    assert block.cut
    assert not other.cut


async def test_one_that_was_cancelled_before_ends_at_once() -> None:
    """At its first wait."""
    block = Block()
    block.cancel()
    with anyio.fail_after(60), block:
        await hang()

    assert block.cut


async def test_of_two_the_outer_one_ends_both() -> None:
    """The inner one was not cut, and does not take it for its own."""
    inner = Block(5)
    with anyio.fail_after(60), Block(0.01) as outer:
        with inner:
            await hang()
        pytest.fail("the inner block swallowed it")

    assert outer.cut
    assert not inner.cut


async def test_two_that_end_together_both_end() -> None:
    """The outer one goes on after the inner one has ended."""
    with anyio.fail_after(60), Block() as outer:
        with Block() as inner:
            inner.cancel()
            outer.cancel()
            await hang()
        await hang()

    assert outer.cut


async def test_the_inner_one_ends_alone() -> None:
    """What follows within the outer one runs."""
    inner = Block(0.01)
    with anyio.fail_after(60), Block() as outer:
        with inner:
            await hang()
        await anyio.sleep(0.01)

    assert inner.cut
    assert not outer.cut


async def test_a_scope_around_it_is_not_swallowed() -> None:
    """anyio's own."""
    block = Block(5)
    with anyio.move_on_after(0.01) as scope:
        with block:
            await hang()
        pytest.fail("the block swallowed it")

    assert scope.cancelled_caught
    assert not block.cut


async def test_a_scope_within_it_does_not_swallow_it() -> None:
    """Nor does a task group's."""
    with anyio.fail_after(60), Block(0.01) as block:
        with anyio.move_on_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hang)
                await hang()
        pytest.fail("the scope swallowed it")

    assert block.cut


async def test_errors_go_through() -> None:
    """Also those raised while it is being ended."""
    with pytest.raises(KeyError), Block():
        raise KeyError


async def test_an_error_that_takes_the_place_of_its_end_goes_through() -> None:
    """It was ended, and something failed for it."""
    block = Block(0.01)

    async def fail() -> None:
        with block:
            try:
                await hang()
            finally:
                raise KeyError

    with anyio.fail_after(60), pytest.raises(KeyError):
        await fail()
    await anyio.lowlevel.checkpoint()

    assert not block.cut


async def test_the_clock_can_be_stopped_and_started() -> None:
    """While it stands, time does not count."""
    left: list[float] = []
    with anyio.fail_after(60), Block(0.2) as block:
        left.append(block.stop())
        await anyio.sleep(0.3)
        block.start(left[0])
        await hang()

    assert 0 < left[0] <= 0.2
    assert block.cut


async def test_blocks_of_one_length_end_in_time() -> None:
    """Whole seconds share a timer: one that has left takes nothing from the others."""
    lengths: list[float] = []

    async def run() -> None:
        began = anyio.current_time()
        with Block(1) as block:
            await hang()
        assert block.cut
        lengths.append(anyio.current_time() - began)

    with anyio.fail_after(60), Block(1) as quick:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await anyio.sleep(0.05)
            tasks.start_soon(run)
            with Block(1):
                await anyio.lowlevel.checkpoint()
            quick.stop()

    assert all(0.99 <= length < 60 for length in lengths)
    assert (len(lengths), quick.cut) == (2, False)


async def test_a_shared_clock_can_be_stopped_and_started() -> None:
    """Then it is its own."""
    left: list[float] = []
    with anyio.fail_after(60), Block(5) as block:
        left += [block.stop(), block.stop()]
        block.start(0.01)
        await hang()

    assert 4 < left[0] <= 5
    assert left[1] == float("inf")
    assert block.cut


async def test_one_without_a_clock_can_be_stopped() -> None:
    """And goes on without one."""
    left: list[float] = []
    with Block() as block:
        left.append(block.stop())
        block.start(left[0])
        await anyio.lowlevel.checkpoint()

    assert left == [float("inf")]


async def test_code_that_swallows_its_cancellation_is_cancelled_again() -> None:
    """At every wait, until the block ends: that is anyio's contract."""
    swallowed = 0
    with anyio.fail_after(60), Block(0.01) as block:
        while swallowed < 3:
            try:
                await hang()
            except anyio.get_cancelled_exc_class():
                swallowed += 1
        await hang()

    assert block.cut


@pytest.mark.parametrize("by", ["clock", "call"])
async def test_a_shield_inside_holds(by: str) -> None:
    """The clean-up ends whole, however long the cancellation has waited; then the block ends."""
    saved: list[str] = []
    with anyio.fail_after(60), Block(0.01 if by == "clock" else 60) as block:
        if by == "call":
            block.cancel()
        try:
            await hang()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1.5)
                saved.append("all")
        saved.append("too much")

    assert block.cut
    assert saved == ["all"]


async def test_a_clock_can_be_moved_to_an_earlier_time() -> None:
    """And to a later one."""
    with anyio.fail_after(60):
        with Block(60) as earlier:
            earlier.start(0.01)
            await hang()
        with Block(0.2) as later:
            later.start(60)
            await anyio.sleep(0.3)

    assert (earlier.cut, later.cut) == (True, False)


async def test_a_cancellation_of_the_task_goes_through() -> None:
    """asyncio's own, from outside, also while the block is being ended."""
    if not on_asyncio():
        return

    async def run() -> None:
        with Block() as block:
            block.cancel()
            await hang()
        await hang()

    task = asyncio.create_task(run())
    await anyio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
