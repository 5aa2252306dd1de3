"""Beside: functions that run beside another, each from some time on, until that one ends.

On asyncio by a timer that many share, and a task only when it is due: an anyio task group costs 60
us, most runs are over before. On any other loop, a task group.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any

import anyio
from msgspec import Struct

from llmgw.block import Block
from llmgw.portal import on_asyncio
from llmgw.timers import Timers, set_timer

Main = Callable[[], Awaitable[None]]
Function = Callable[[], Coroutine[Any, Any, None]]
Functions = Sequence[tuple[float, Function]]  # each with the seconds after which it begins
GRACE = 0.05  # seconds until somebody listens, or twice as many; most answers are quicker


class Beside(Block):
    """``await Beside().run(main, (seconds, func), ...)``, and ``cancel()`` ends main.

    A function's exception ends main, and leaves from ``run``. Main's own exceptions leave as they
    are, never in a group. A main that ``cancel()`` ended raises nothing.

    A subclass may ``listen`` besides, for what should end main. It has no clock of its own.
    """

    listening: bool = False  # whether ``listen`` runs, too: from GRACE to twice GRACE on
    error: BaseException | None = None
    _context: Context | None = None
    _listener: asyncio.Task[None] | None = None
    _tasks: list[asyncio.Task[None]] | None = None

    async def listen(self) -> None:
        """Wait for what should end main, and ``fail`` by its errors.

        Once main is ``settled`` it has no effect.
        """

    def settled(self) -> bool:
        """Whether main has done all that it is for, so that nothing could end it any more."""
        return False

    def excuses(self, error: BaseException) -> bool:
        """Whether what ran beside may end by this error: then nothing is raised."""
        return False

    async def run(self, main: Main, *functions: tuple[float, Function]) -> None:
        """Run main; what runs beside it has ended when this returns.

        But for what listened to a main that is settled: that is cancelled, and ends in the next
        turn of the loop, before anybody who waits for this task hears of its end. To wait for it
        here would cost each slow request a turn more.
        """
        if "trio" in sys.modules and not on_asyncio():
            return await self._run_grouped(main, functions)
        waiting: list[tuple[Timers, Later]] = []
        try:
            with self:
                assert self._task is not None  # a Block has one within
                loop = self._task.get_loop()
                self._context = copy_context()  # for a shared timer's is no one's
                if self.listening:  # the block's exit takes it out again
                    self._timers = set_timer(self, GRACE, Beside._start_to_listen, loop, GRACE)
                for seconds, func in functions:
                    later = Later(self, func)
                    waiting.append((set_timer(later, seconds, Later.start, loop), later))
                await main()
        finally:
            for timers, later in waiting:
                timers.pop(later, None)
            if self._listener is not None or self._tasks is not None:
                await ended(self._cancelled())
        if self.cut:
            self._tell()

    async def _run_grouped(self, main: Main, functions: Functions) -> None:
        error: BaseException | None = None
        if self.listening:
            functions = (*functions, (GRACE, self.listen))
        async with anyio.create_task_group() as group:
            for seconds, func in functions:
                group.start_soon(self._later, seconds, func)
            try:
                with self:
                    await main()
            except BaseException as exc:
                error = exc  # out of the group's reach
            group.cancel_scope.cancel()
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame
        if self.cut:
            self._tell()

    def _tell(self) -> None:
        error, self.error = self.error, None
        try:
            if error is not None and not self.excuses(error):
                raise error
        finally:
            del error

    def begin(self, func: Function) -> None:
        """Run a function from now on; on asyncio."""
        self._tasks = [*(self._tasks or []), self._started(self._guarded(func))]

    def fail(self, error: Exception) -> None:
        """End main, and raise this from ``run``."""
        self.error = error
        self.cancel()

    def _start_to_listen(self) -> None:
        self._listener = self._started(self.listen())

    def _started(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work, context=self._context)

    def _cancelled(self) -> list[asyncio.Task[None]]:
        """Cancel what runs beside; the tasks whose end matters."""
        tasks, listener = self._tasks or [], self._listener
        self._tasks = self._listener = None  # their tracebacks hold this: it would be a cycle
        for task in tasks:
            task.cancel()
        if listener is not None:
            listener.cancel()
            if not self.settled():
                tasks.append(listener)
        return tasks

    async def _later(self, seconds: float, func: Function) -> None:
        await anyio.sleep(seconds)
        await self._guarded(func)

    async def _guarded(self, func: Function) -> None:
        try:
            await func()
        except Exception as exc:
            self.fail(exc)


class Later(Struct, eq=False):
    """A function that has not begun."""

    beside: Beside
    func: Function

    def start(self) -> None:
        """Its time has come."""
        self.beside.begin(self.func)


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
