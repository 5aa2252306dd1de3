"""Background: functions that run beside a block of code, and have ended when it has."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import pytest

from llmgw._concurrency.background import Background, Running
from llmgw._concurrency.block import Block
from llmgw.portal import on_asyncio

var = ContextVar("var", default="nobody's")


async def fail() -> None:
    """Fail at once."""
    raise KeyError("beside")


async def test_a_function_runs_from_its_time_on() -> None:
    """One that is not due never begins."""
    begun: list[str] = []
    due = anyio.Event()

    async def first() -> None:
        begun.append("first")
        due.set()

    async def second() -> None:
        begun.append("second")

    with anyio.fail_after(60):
        async with Background([(0.01, first), (600, second)]):
            await due.wait()

    assert begun == ["first"]


@pytest.mark.parametrize("shared", [False, True])
async def test_what_runs_beside_has_ended_when_the_block_has(shared: bool) -> None:
    """Cancelled, with its shielded clean-up ended whole."""
    begun = anyio.Event()
    ended: list[bool] = []

    async def hang() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)
                ended.append(True)

    with anyio.fail_after(60), Block() as block:
        async with Background([(0, hang)], block if shared else None):
            await begun.wait()
        assert ended == [True]


async def test_a_function_that_is_in_a_shield_when_the_block_ends_is_waited_for() -> None:
    """The end of the block does not go through it."""
    begun = anyio.Event()
    ended: list[str] = []

    async def save() -> None:
        with anyio.CancelScope(shield=True):
            begun.set()
            await anyio.sleep(0.1)
            ended.append("saved")
        await anyio.lowlevel.checkpoint()
        ended.append("went on")

    with anyio.fail_after(60):
        async with Background([(0, save)]):
            await begun.wait()

    assert ended == ["saved"]


async def test_a_function_can_end_the_block() -> None:
    """Nothing is raised, and code goes on behind it."""
    background = Background([])

    async def end() -> None:
        assert background.block is not None
        background.block.cancel()

    background.functions = [(0, end)]
    with anyio.fail_after(60):
        async with background:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()


async def test_a_function_can_end_a_block_around_it() -> None:
    """Then code goes on behind that one."""
    passed: list[str] = []
    with anyio.fail_after(60), Block() as block:

        async def end() -> None:
            block.cancel()

        async with Background([(0, end)], block):
            await anyio.sleep_forever()
        passed.append("the inner one")

    assert block.cut
    assert not passed


@pytest.mark.parametrize("shared", [False, True])
async def test_an_error_of_a_function_ends_the_block_and_leaves(shared: bool) -> None:
    """Bare, never in a group."""
    with anyio.fail_after(60), pytest.raises(KeyError), Block() as block:
        async with Background([(0, fail)], block if shared else None):
            await anyio.sleep_forever()


async def test_the_blocks_own_error_leaves_as_it_is() -> None:
    """Also while something runs beside, and when that has failed as well."""
    begun = anyio.Event()

    async def hang() -> None:
        begun.set()
        await anyio.sleep_forever()

    async def run_one() -> None:
        async with Background([(0, hang)]):
            await begun.wait()
            raise ValueError("own")

    async def run_two() -> None:
        async with Background([(0, fail)]):
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("own")

    for run in (run_one, run_two):
        with anyio.fail_after(60), pytest.raises(ValueError, match="own"):
            await run()


async def test_cancellation_from_outside_goes_on() -> None:
    """And what runs beside ends."""
    begun = anyio.Event()
    ended: list[bool] = []

    async def hang() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    with anyio.CancelScope() as scope:
        async with Background([(0, hang)]):
            await begun.wait()
            scope.cancel()
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert ended == [True]


async def test_a_cancelled_task_waits_for_what_runs_beside() -> None:
    """asyncio's own cancellation knows no shield, and still does not leave anything behind."""
    if not on_asyncio():
        return
    begun = anyio.Event()
    ended: list[bool] = []

    async def hang() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)
                ended.append(True)

    async def run() -> None:
        async with Background([(0, hang)]):
            await begun.wait()

    task = asyncio.create_task(run())
    await begun.wait()
    await anyio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended == [True]


async def test_a_function_has_the_variables_of_its_own_task() -> None:
    """Those of the moment when the block began."""
    heard: list[str] = []
    done = anyio.Event()

    async def note() -> None:
        heard.append(var.get())
        done.set()

    var.set("its own")
    with anyio.fail_after(60):
        async with Background([(0.01, note)]):
            await done.wait()

    assert heard == ["its own"]


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_nothing_is_left_to_the_collector(use_uvloop: bool) -> None:
    """Tracebacks hold frames, and those what ran; without asyncio's debug, which holds them too."""

    async def run() -> list[object]:
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)  # other tests' threads may leave things of their own
        try:
            async with Background([(0, anyio.sleep_forever), (600, anyio.sleep_forever)]):
                await anyio.sleep(0.02)
            background = Background([(0, anyio.sleep_forever)])
            async with background:
                while not background._running:  # noqa: ASYNC110 - its task has not begun then
                    await asyncio.sleep(0)
            del background
            with suppress(KeyError):
                async with Background([(0, fail)]):
                    await anyio.sleep_forever()
            await anyio.sleep(0.01)
            gc.collect()
            return [one for one in gc.garbage if isinstance(one, Background | Running)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    assert not anyio.run(run, backend_options={"use_uvloop": use_uvloop})
