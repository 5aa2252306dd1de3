"""Beside: functions that run beside a block, each from some time on, until the block ends.

On asyncio by a timer, and a task only when it is due: an anyio task group costs 60 us, most blocks
are over before. On any other loop, a task group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any

import anyio
import attrs
from anyio.abc import TaskGroup

from llmgw.block import Block
from llmgw.portal import on_asyncio

Function = Callable[[], Coroutine[Any, Any, None]]


@attrs.define(eq=False)
class Beside:
    """``async with Beside([(seconds, func), ...]) as beside:`` and ``beside.cancel()`` ends it.

    An exception of a function ends the block, and leaves from it. The block's own exceptions leave
    as they are, never in a group. A block that ``cancel()`` ended raises nothing.
    """

    functions: list[tuple[float, Function]]
    error: BaseException | None = None
    _block: Block = attrs.field(factory=Block, init=False)
    _group: TaskGroup | None = attrs.field(default=None, init=False)
    _timers: list[asyncio.TimerHandle] = attrs.field(factory=list[asyncio.TimerHandle], init=False)
    _tasks: list[asyncio.Task[None]] = attrs.field(factory=list[asyncio.Task[None]], init=False)

    def cancel(self) -> None:
        """End the block."""
        self._block.cancel()

    async def __aenter__(self) -> Beside:
        """Begin."""
        if on_asyncio():
            loop = asyncio.get_running_loop()
            for seconds, func in self.functions:
                self._timers.append(loop.call_later(seconds, self._start, func))
        else:
            self._group = anyio.create_task_group()
            await self._group.__aenter__()
            for seconds, func in self.functions:
                self._group.start_soon(self._later, seconds, func)
        self._block.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        """End: what runs beside is cancelled, and has ended when this returns."""
        swallowed = bool(self._block.__exit__(kind, exc, tb))
        for timer in self._timers:
            timer.cancel()
        if self._group is not None:
            self._group.cancel_scope.cancel()
            await self._group.__aexit__(None, None, None)
        elif self._tasks:
            for task in self._tasks:
                task.cancel()
            await ended(self._tasks)
        if swallowed and self.error is not None:
            raise self.error
        return swallowed

    def _start(self, func: Function) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(self._run(func)))

    async def _later(self, seconds: float, func: Function) -> None:
        await anyio.sleep(seconds)
        await self._run(func)

    async def _run(self, func: Function) -> None:
        try:
            await func()
        except Exception as exc:
            self.error = exc
            self._block.cancel()


async def ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until cancelled tasks have ended; a cancellation of our own waits so long."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not all(task.done() for task in tasks):
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as exc:
                cancelled = exc
    if cancelled is not None:
        raise cancelled
