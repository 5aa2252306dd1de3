"""Waiting: a clock that costs nothing where nobody waits."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from llmgw._concurrency.block import Expired, resume, wait_at_most


async def at_once(value: int) -> int:
    return value


async def test_what_is_ready_is_given() -> None:
    """Without a wait."""
    assert await wait_at_most(0, at_once(7)) == 7


async def test_what_comes_in_time_is_given() -> None:
    """After one wait, or several."""

    async def wait() -> int:
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        return 7

    assert await wait_at_most(5, wait()) == 7


async def test_what_comes_too_late_is_cut() -> None:
    """The coroutine is cancelled where it waits, and can clean up."""
    cleaned: list[bool] = []
    never = anyio.Event()

    async def hang() -> None:
        try:
            await never.wait()
        finally:
            cleaned.append(True)

    with anyio.fail_after(60), pytest.raises(Expired):
        await wait_at_most(0.02, hang())

    assert cleaned == [True]


@pytest.mark.parametrize("waits", [0, 1])
async def test_errors_pass(waits: int) -> None:
    """Before and after a wait."""

    async def fail() -> None:
        for _ in range(waits):
            await anyio.lowlevel.checkpoint()
        raise KeyError("own")

    with pytest.raises(KeyError):
        await wait_at_most(5, fail())


async def test_cancellation_from_outside_goes_on() -> None:
    """It is not taken for the clock's."""
    never = anyio.Event()
    with anyio.move_on_after(0.02) as scope:
        await wait_at_most(5, never.wait())

    assert scope.cancelled_caught


async def test_a_coroutine_can_be_resumed() -> None:
    """It was driven to its first wait by hand; what it is sent and thrown reaches it."""
    never = anyio.Event()
    caught: list[str] = []

    async def work() -> int:
        await anyio.lowlevel.checkpoint()
        try:
            await never.wait()
        except BaseException as exc:
            caught.append(type(exc).__name__)
            raise
        return 1

    running = work()
    signal = running.send(None)
    with anyio.move_on_after(0.02):
        await resume(running, signal)

    assert caught in (["CancelledError"], ["Cancelled"])
