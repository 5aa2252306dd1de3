"""Beside: functions that run beside another until that one ends."""

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
        await Beside().run(due.wait, (0.01, first), (60, second))

    assert begun == ["first"]


async def test_what_runs_beside_has_ended_when_main_has() -> None:
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
        await Beside().run(begun.wait, (0, hang))

    assert ended == [True]


async def test_it_can_end_main() -> None:
    """And nothing is raised."""
    with anyio.fail_after(5):
        beside = Beside()

        async def end() -> None:
            beside.cancel()

        await beside.run(anyio.sleep_forever, (0, end))


async def test_its_error_ends_main_and_leaves() -> None:
    """Bare, never in a group."""

    async def fail() -> None:
        raise KeyError("beside")

    with anyio.fail_after(5), pytest.raises(KeyError):
        await Beside().run(anyio.sleep_forever, (0, fail))


async def test_mains_own_error_leaves_as_it_is() -> None:
    """Also while something runs beside."""
    begun = anyio.Event()

    async def hang() -> None:
        begun.set()
        await anyio.sleep_forever()

    async def fail() -> None:
        await begun.wait()
        raise ValueError("own")

    with anyio.fail_after(5), pytest.raises(ValueError, match="own"):
        await Beside().run(fail, (0, hang))


async def test_cancellation_from_outside_goes_on() -> None:
    """And what runs beside ends."""
    ended: list[bool] = []

    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    with anyio.move_on_after(0.05) as scope:
        await Beside().run(anyio.sleep_forever, (0, hang))

    assert scope.cancelled_caught
    assert ended == [True]
