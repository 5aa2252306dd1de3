"""Background: functions that run beside a block of code, each from some time on.

On asyncio a function is a timer until its time has come, and then a task: most blocks are over
before, and an anyio task group costs 60 us. On any other loop it is a task group.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct

from llmgw._concurrency.block import Block
from llmgw.portal import on_asyncio

Function = Callable[[], Coroutine[Any, Any, None]]


class Running(Struct, eq=False):
    """A function whose time has come; on asyncio."""

    func: Function
    task: asyncio.Task[None] | None = None
    scope: anyio.CancelScope | None = None  # once the task has begun

    def cancel(self) -> None:
        """End it. By its scope: ``task.cancel()`` would go through shields."""
        if self.scope is not None:
            self.scope.cancel()
        elif self.task is not None:
            self.task.cancel()


class Background(Struct, eq=False):
    """``async with Background([(seconds, func), ...]):`` runs them while the block runs.

    When the block ends they are cancelled, and have ended when it has been left. An exception of a
    function ends the block and leaves bare; the block's own goes first, and is never in a group.
    ``block`` is a Block around this one that a function may end by ``cancel()``; without one there
    is a Block of its own, and code goes on behind it.
    """

    functions: Sequence[tuple[float, Function]]
    block: Block | None = None
    _own: Block | None = None
    _error: Exception | None = None
    _timers: list[asyncio.TimerHandle] = []
    _running: list[Running] = []
    _group: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        if self.functions and "trio" in sys.modules and not on_asyncio():
            self._group = anyio.create_task_group()
            await self._group.__aenter__()
            for seconds, func in self.functions:
                self._group.start_soon(self._later, seconds, func)
        elif self.functions:
            loop = asyncio.get_running_loop()
            self._timers = [
                loop.call_later(seconds, self._start, func) for seconds, func in self.functions
            ]
        self.functions = ()  # a bound method of a subclass would be a cycle
        if self.block is None:
            self.block = self._own = Block()
            self._own.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        """End; what was ended by ``cancel()`` of an own Block raises nothing."""
        swallowed = self._own is not None and self._own.__exit__(kind, exc, tb)
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        if self._running:
            await self._end_running()
        if self._group is not None:
            self._group.cancel_scope.shield = True  # or a cancellation would leave in a group
            self._group.cancel_scope.cancel()
            await self._group.__aexit__(None, None, None)
        if self._error is not None and not isinstance(exc, Exception):
            self._raise()
        return swallowed

    def fail(self, error: Exception) -> None:
        """End the block, and raise this behind it."""
        assert self.block is not None
        self._error = error
        self.block.cancel()

    def _raise(self) -> None:
        error, self._error = self._error, None
        assert error is not None
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def _start(self, func: Function) -> None:
        running = Running(func)
        running.task = asyncio.get_running_loop().create_task(self._run(running))
        self._running.append(running)

    async def _run(self, running: Running) -> None:
        with anyio.CancelScope() as running.scope:
            await self._guarded(running.func)

    async def _later(self, seconds: float, func: Function) -> None:
        await anyio.sleep(seconds)
        await self._guarded(func)

    async def _guarded(self, func: Function) -> None:
        try:
            await func()
        except Exception as exc:
            self.fail(exc)

    async def _end_running(self) -> None:
        """Cancel what runs and wait for its end, whatever cancels this task meanwhile."""
        tasks: list[asyncio.Task[None]] = []
        for running in self._running:
            if running.task is not None:
                running.cancel()
                tasks.append(running.task)
            running.task = None  # its frame, which a cancellation's traceback may hold, holds this
        self._running = []
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while not all(task.done() for task in tasks):
                try:
                    await asyncio.wait(tasks)
                except asyncio.CancelledError as exc:  # by asyncio, which knows no shield
                    cancelled = exc
        if cancelled is not None:
            raise cancelled
