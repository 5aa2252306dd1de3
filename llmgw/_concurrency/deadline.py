"""DeadlineWaiter: one clock for a connection's successive waits. Only on asyncio.

A Block for each wait would cost 10 us an event of a stream, more than the rest of the client. Here
a wait is a bare future, which anyio's cancellation reaches as any other, and all waits share one
timer: it is set for the first, and when it rings it is set again for the wait of that moment.
"""

from __future__ import annotations

import asyncio
import math
import time

from llmgw._concurrency.block import EARLY, Expired


class DeadlineWaiter:
    """The waits of one thing, one at a time, each until its ``due`` (``time.monotonic()``)."""

    __slots__ = ("_due", "_loop", "_timer", "_timer_due", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf

    def wait(self, due: float = math.inf) -> asyncio.Future[None]:
        """Wait until ``wake``, or until ``due``. Raises Expired."""
        self._due = due
        if due < self._timer_due:
            self.silence()
            self._set_timer()
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def wake(self) -> None:
        """End the wait, if there is one."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def silence(self) -> None:
        """Stop the clock: nothing will wait any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due = None, math.inf

    def _set_timer(self) -> None:
        self._timer_due = self._due
        self._timer = self._loop.call_later(self._due - time.monotonic(), self._ring)

    def _ring(self) -> None:
        self._timer, self._timer_due = None, math.inf
        waiter = self._waiter
        if waiter is None or waiter.done() or self._due == math.inf:
            return
        if time.monotonic() < self._due - EARLY:
            self._set_timer()
        else:
            self._waiter = None  # else the error, whose traceback holds who waited, would stay
            waiter.set_exception(Expired())
