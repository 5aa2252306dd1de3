"""Portal: asyncio-only code runs on asyncio; cancellation, errors and context go along."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from contextvars import ContextVar

import anyio
import pytest
import sniffio

from llmgw import portal

name: ContextVar[str] = ContextVar("name", default="unset")


async def where() -> tuple[bool, str]:
    """Whether an asyncio loop runs here, and in which thread."""
    return asyncio.get_running_loop().is_running(), threading.current_thread().name


async def test_it_runs_on_asyncio() -> None:
    """On this loop, or on trio in the portal's one thread."""
    home = threading.current_thread().name
    first, second = await portal.call(where), await portal.call(where)

    assert first[0]
    assert first == second
    assert (first[1] == home) is portal.on_asyncio()


async def test_values_and_arguments_pass() -> None:
    """As by a plain await."""

    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    assert await portal.call(add, 2, 3) == 5


async def test_errors_pass() -> None:
    """The same object."""
    error = KeyError("own")

    async def fail() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        await portal.call(fail)

    assert caught.value is error


async def test_an_error_is_not_left_to_the_collector() -> None:
    """Nobody who has caught it holds it."""

    class OwnError(Exception):
        pass

    seen: list[weakref.ref[OwnError]] = []

    async def fail() -> None:
        raise OwnError

    gc.disable()
    try:
        try:
            await portal.call(fail)
        except OwnError as error:
            seen.append(weakref.ref(error))
        await anyio.sleep(0.05)  # the portal's last callback
        assert [ref() for ref in seen] == [None]
    finally:
        gc.enable()


async def test_context_goes_along() -> None:
    """A span that is current here is current there; the loop is told as it is."""
    token = name.set("here")

    async def look() -> tuple[str, str]:
        return name.get(), sniffio.current_async_library()

    try:
        assert await portal.call(look) == ("here", "asyncio")
    finally:
        name.reset(token)


async def test_cancellation_reaches_the_call() -> None:
    """And is waited for: what it cleans up is done when it returns."""
    started, cleaned = threading.Event(), threading.Event()

    async def hang() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(portal.call, hang)
        await anyio.to_thread.run_sync(started.wait, 60)
        tasks.cancel_scope.cancel()

    assert cleaned.is_set()


async def test_what_was_done_before_the_cancellation_came_is_not_lost() -> None:
    """A connection that was just opened can be closed only by who gets it."""
    asked = threading.Event()
    got: list[str] = []

    async def open_slowly() -> str:
        asked.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "open"
        return "never"

    async def caller() -> None:
        got.append(await portal.call(open_slowly))
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(caller)
        await anyio.to_thread.run_sync(asked.wait, 60)
        tasks.cancel_scope.cancel()

    assert got == ["open"]


async def test_calls_run_side_by_side() -> None:
    """One that waits does not keep another."""
    gate: asyncio.Event | None = None

    async def wait() -> None:
        nonlocal gate
        gate = asyncio.Event()
        await gate.wait()

    async def open_gate() -> None:
        while gate is None:  # noqa: ASYNC110 - the other call may not have begun
            await asyncio.sleep(0)
        gate.set()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(portal.call, wait)
            await portal.call(open_gate)


async def test_a_task_that_cancels_itself_is_cancelled_here() -> None:
    """asyncio code may do so; it must not hang."""

    async def cancel() -> None:
        raise asyncio.CancelledError

    with anyio.fail_after(60), pytest.raises(BaseException):  # noqa: B017, PT011
        await portal.call(cancel)
