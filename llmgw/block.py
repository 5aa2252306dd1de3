"""Block: code that can be ended from elsewhere, or by a clock.

On asyncio by ``task.cancel()``, as ``asyncio.timeout`` does it: anyio's cancel scope costs 5 to 10
us there, and a request passes four; this costs 1 to 2. On any other loop, anyio's.
"""

from __future__ import annotations

import asyncio
import math
import sys
from types import TracebackType
from typing import Self

import anyio
from msgspec import Struct

from llmgw.portal import on_asyncio
from llmgw.timers import Timers, set_timer

AGAIN = 1.0  # seconds until code that has swallowed its cancellation is cancelled again; chosen


class Block(Struct, eq=False):
    """``with Block(seconds) as block:`` ends after ``seconds``, or by ``block.cancel()``.

    Code that was ended so raises nothing; ``block.cut`` tells that it was. A block lies within one
    task and holds no ``yield``.
    """

    seconds: float = math.inf
    cut: bool = False
    _scope: anyio.CancelScope | None = None
    _task: asyncio.Task[object] | None = None
    _timers: Timers | None = None  # of all blocks of this length, or
    _timer: asyncio.TimerHandle | None = None  # its own
    _before: int = 0  # cancellations of the task that are not ours
    _called: bool = False
    _calls: int = 0  # cancellations that are

    def cancel(self) -> None:
        """End the block, at its next wait."""
        if self._scope is not None:
            self._scope.cancel()
        elif not self._called:
            self._called = True
            if self._task is not None:
                self._task.get_loop().call_soon(self._deliver)  # the task itself may be asking

    def stop(self) -> float:
        """Stop the clock; the seconds that it had left."""
        if self._scope is not None:
            left = self._scope.deadline - anyio.current_time()
            self._scope.deadline = math.inf
            return left
        if self._task is None or self._called:
            return math.inf
        due = math.inf
        if self._timers is not None:
            due = self._timers.pop(self, math.inf)
        elif self._timer is not None:
            due = self._timer.when()
            self._timer.cancel()
        self._timers = self._timer = None
        return due - self._task.get_loop().time()

    def start(self, seconds: float) -> None:
        """Start the clock anew."""
        if self._scope is not None:
            self._scope.deadline = anyio.current_time() + seconds
        elif seconds < math.inf and self._task is not None and not self._called:
            self._timer = self._task.get_loop().call_later(seconds, self._expire)

    def __enter__(self) -> Self:
        """Begin."""
        if "trio" in sys.modules and not on_asyncio():
            return self._enter_scope()
        self._task = task = asyncio.current_task()
        assert task is not None
        self._before = task.cancelling()
        if self._called:
            task.get_loop().call_soon(self._deliver)
        elif self.seconds < math.inf:
            if self.seconds % 1:  # what is left of a time, which never comes again
                self._timer = task.get_loop().call_later(self.seconds, self._expire)
            else:
                self._timers = set_timer(self, self.seconds, Block._expire, task.get_loop())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        """End; what ended it stays here."""
        task = self._task
        if task is None:
            return self._exit_scope(kind, exc, tb)
        self._task = None
        if self._timers is not None:
            self._timers.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        if not self._calls:
            return False
        for _ in range(self._calls):
            task.uncancel()
        ours = kind is not None and issubclass(kind, asyncio.CancelledError)
        self.cut = ours and task.cancelling() <= self._before
        return self.cut

    def _enter_scope(self) -> Self:
        self._scope = anyio.CancelScope()
        if self._called:
            self._scope.cancel()
        self._scope.__enter__()
        self.start(self.seconds)
        return self

    def _exit_scope(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        assert self._scope is not None  # on any other loop
        swallowed = bool(self._scope.__exit__(kind, exc, tb))
        self.cut = self._scope.cancelled_caught
        return swallowed

    def _expire(self) -> None:
        self._called = True
        self._deliver()

    def _deliver(self) -> None:
        if self._task is None:
            return  # it has ended
        self._calls += 1
        self._task.cancel()
        self._timer = self._task.get_loop().call_later(AGAIN, self._deliver)
