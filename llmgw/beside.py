"""Beside: functions that run beside another, each from some time on, until that one ends.

On asyncio by a timer, and a task only when it is due: an anyio task group costs 60 us, most runs
are over before. On any other loop, a task group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import anyio

from llmgw.block import Block
from llmgw.portal import on_asyncio

Main = Callable[[], Awaitable[None]]
Function = Callable[[], Coroutine[Any, Any, None]]
Functions = Sequence[tuple[float, Function]]  # each with the seconds after which it begins


class Beside(Block):
    """``await Beside().run(main, (seconds, func), ...)``, and ``cancel()`` ends main.

    A function's exception ends main, and leaves from ``run``. Main's own exceptions leave as they
    are, never in a group. A main that ``cancel()`` ended raises nothing.
    """

    error: BaseException | None = None
    _tasks: list[asyncio.Task[None]] | None = None

    async def run(self, main: Main, *functions: tuple[float, Function]) -> None:
        """Run main; what runs beside it has ended when this returns."""
        if not on_asyncio():
            return await self._run_grouped(main, functions)
        loop, timers = asyncio.get_running_loop(), list[asyncio.TimerHandle]()
        for seconds, func in functions:
            timers.append(loop.call_later(seconds, self._start, func))
        try:
            with self:
                await main()
        finally:
            for timer in timers:
                timer.cancel()
            if self._tasks is not None:
                for task in self._tasks:
                    task.cancel()
                await ended(self._tasks)
        if self.cut:
            self._tell()

    async def _run_grouped(self, main: Main, functions: Functions) -> None:
        error: BaseException | None = None
        async with anyio.create_task_group() as group:
            for seconds, func in functions:
                group.start_soon(self._later, seconds, func)
            try:
                with self:
                    await main()
            except BaseException as exc:
                error = exc  # out of the group's reach
            group.cancel_scope.cancel()
        if error is not None:
            raise error
        if self.cut:
            self._tell()

    def _tell(self) -> None:
        if self.error is not None:
            raise self.error

    def _start(self, func: Function) -> None:
        self._tasks = self._tasks or []
        self._tasks.append(asyncio.get_running_loop().create_task(self._guarded(func)))

    async def _later(self, seconds: float, func: Function) -> None:
        await anyio.sleep(seconds)
        await self._guarded(func)

    async def _guarded(self, func: Function) -> None:
        try:
            await func()
        except Exception as exc:
            self.error = exc
            self.cancel()


async def ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until cancelled tasks have ended; a cancellation of our own waits so long."""
    cancelled: asyncio.CancelledError | None = None
    turns = 0
    while not all(task.done() for task in tasks):
        try:
            if turns:
                await asyncio.wait(tasks)
            else:
                await asyncio.sleep(0)  # mostly enough, and a tenth of the other's cost
        except asyncio.CancelledError as exc:
            cancelled = exc
        turns += 1
    if cancelled is not None:
        raise cancelled
