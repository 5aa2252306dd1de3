"""Beside: functions that run beside a block until it ends."""

from __future__ import annotations

import anyio
import pytest

from llmgw.beside import Beside


async def test_a_function_runs_from_its_time_on() -> None:
    """One that is not due never begins."""
    begun: list[str] = []
    due = anyio.Event()

    async def first() -> None:
        begun.append("first")
        due.set()

    async def second() -> None:
        begun.append("second")

    with anyio.fail_after(5):
        async with Beside([(0.01, first), (60, second)]):
            await due.wait()

    assert begun == ["first"]


async def test_what_runs_beside_has_ended_when_the_block_has() -> None:
    """Cancelled, and cleaned up."""
    begun = anyio.Event()
    ended: list[bool] = []

    async def hang() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    with anyio.fail_after(5):
        async with Beside([(0, hang)]):
            await begun.wait()

    assert ended == [True]


async def test_it_can_end_the_block() -> None:
    """And nothing is raised."""
    with anyio.fail_after(5):
        block = Beside([])

        async def end() -> None:
            block.cancel()

        block.functions.append((0, end))
        async with block:
            await anyio.sleep_forever()


async def test_its_error_leaves_from_the_block() -> None:
    """Bare, never in a group."""

    async def fail() -> None:
        raise KeyError("beside")

    with anyio.fail_after(5), pytest.raises(KeyError):
        async with Beside([(0, fail)]):
            await anyio.sleep_forever()


async def test_the_blocks_own_error_leaves_as_it_is() -> None:
    """Also while something runs beside."""
    begun = anyio.Event()

    async def hang() -> None:
        begun.set()
        await anyio.sleep_forever()

    async def fail() -> None:
        async with Beside([(0, hang)]):
            await begun.wait()
            raise ValueError("own")

    with anyio.fail_after(5), pytest.raises(ValueError, match="own"):
        await fail()


async def test_cancellation_from_outside_goes_on() -> None:
    """And what runs beside ends."""
    ended: list[bool] = []

    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    with anyio.move_on_after(0.05) as scope:
        async with Beside([(0, hang)]):
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert ended == [True]
