"""Block: code that can be ended by a clock or from elsewhere, on any event loop.

It is one anyio cancel scope, so shields hold and a cancellation is delivered again until the code
ends. Two things are added:

- A clock that can be stopped and moved. On asyncio it is a timer of its own, which is only set
  again when it rings too early: to move the clock costs nothing.
- The merge rule. anyio knows its own cancellations by their message. When ``asyncio.timeout``, or
  anything else that cancels the task, was first, anyio lets the CancelledError pass although the
  scope was cancelled, and it would leave the block. It is taken for the block's own when every
  other cancellation of the task has been taken back and no scope around the block is cancelled.
"""

from __future__ import annotations

import asyncio
import math
import sys
import types
from collections.abc import Awaitable, Coroutine, Generator
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
from msgspec import Struct

from llmgw.portal import on_asyncio

T = TypeVar("T")


class Expired(Exception):  # noqa: N818 - it is an answer, not an error
    """The clock ran out."""


class Block(Struct, eq=False):
    """``with Block(seconds) as block:`` ends after ``seconds``, or by ``block.cancel()``.

    Code that was ended so raises nothing; then ``block.cut`` is True. A shield inside holds: the
    block ends when the shielded code has. A block lies within one task and holds no ``yield``.
    """

    seconds: float = math.inf
    cut: bool = False
    _scope: anyio.CancelScope | None = None
    _called: bool = False  # cancelled, perhaps before it began
    _due: float = math.inf  # when the clock runs out, by the loop's clock; on asyncio
    _timer: asyncio.TimerHandle | None = None
    _task: asyncio.Task[object] | None = None  # on asyncio
    _cancelling: int = 0  # cancellations of the task when the block began

    def cancel(self) -> None:
        """End the block, at its next wait that is not shielded. May be called more than once."""
        self._called = True
        if self._scope is not None:
            self._scope.cancel()

    def stop(self) -> float:
        """Stop the clock; the seconds that it had left. Of a block that has ended: inf."""
        if self._scope is None:
            return math.inf
        if self._task is None:
            left = self._scope.deadline - anyio.current_time()
            self._scope.deadline = math.inf
            return left
        left = self._due - self._task.get_loop().time()
        self._due = math.inf
        return left

    def start(self, seconds: float) -> None:
        """Start the clock: the block ends in ``seconds``, unless it has ended."""
        if self._scope is None:
            return
        if self._task is None:
            self._scope.deadline = anyio.current_time() + seconds
            return
        if seconds == math.inf:
            self._due = math.inf
            return
        loop = self._task.get_loop()
        self._due = loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = loop.call_at(self._due, self._ring)

    def __enter__(self) -> Self:
        """Begin."""
        self._scope = scope = anyio.CancelScope()
        if "trio" not in sys.modules or on_asyncio():
            self._task = task = asyncio.current_task()
            assert task is not None
            self._cancelling = task.cancelling()
        scope.__enter__()
        if self._called:
            scope.cancel()
        if self.seconds != math.inf:
            self.start(self.seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        """End; what ended it stays here."""
        scope, self._scope = self._scope, None
        assert scope is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        scope.__exit__(kind, exc, tb)
        task, self._task = self._task, None
        if task is not None and not self._called:
            return False
        self.cut = scope.cancelled_caught
        if task is not None and not self.cut and isinstance(exc, asyncio.CancelledError):
            around = anyio.current_effective_deadline() == -math.inf  # a scope around it ends
            self.cut = task.cancelling() <= self._cancelling and not around
        return self.cut

    def _ring(self) -> None:
        self._timer = None
        if self._task is None or self._due == math.inf:
            return  # it has ended, or the clock stands
        loop = self._task.get_loop()
        if self._due > loop.time() + EARLY:
            self._timer = loop.call_at(self._due, self._ring)
        else:
            self.cancel()


EARLY = 0.001  # seconds: uvloop counts in milliseconds, and may be so much too early


@types.coroutine
def resume(coroutine: Coroutine[Any, Any, T], signal: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that was driven to its first wait, which gave ``signal``."""
    while True:
        error: BaseException | None = None
        answer: Any = None
        try:
            answer = yield signal
        except BaseException as exc:
            error = exc  # it is the coroutine's to handle
        try:
            signal = coroutine.send(answer) if error is None else coroutine.throw(error)
        except StopIteration as done:
            result: T = done.value
            return result


async def as_coroutine(awaitable: Awaitable[T]) -> T:
    """A coroutine that waits for anything."""
    return await awaitable


async def wait_at_most(seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
    """``await coroutine``, at most ``seconds`` long. Raises Expired.

    A coroutine that does not wait gets no Block, which would cost more than most of them.
    """
    if "trio" in sys.modules and not on_asyncio():  # a scope must be there before trio's waits
        with Block(seconds):
            return await coroutine
        raise Expired
    try:
        signal = coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    with Block(seconds):
        return await resume(coroutine, signal)
    raise Expired
