"""Alarm: the waits of a connection or a stream, for the price of none. Only on asyncio."""

from __future__ import annotations

import asyncio
import math
import time

from llmgw.timers import EARLY, Timers, set_timer
from llmgw.waiting import Expired

LONG = 5.0  # seconds of a wait that it does not wait alone; chosen


class Waits:
    """The waits of one thing, one at a time, each until its ``due``.

    One alarm serves them all: it is set when the first has begun, and when it goes off it is set
    anew for whoever waits then. A timer for each wait would cost 3 us an event of a stream, a Block
    10. Who waits for long shares a timer with all that do, and has one of its own for the rest.
    """

    __slots__ = ("_alarm", "_alarm_at", "_due", "_loop", "_timers", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._due = math.inf  # until then
        self._timers: Timers | None = None  # the shared alarm, or
        self._alarm: asyncio.TimerHandle | None = None  # its own
        self._alarm_at = math.inf

    def wait(self, due: float = math.inf) -> asyncio.Future[None]:
        """Wait until ``wake``, or until ``due`` (``time.monotonic()``). Raises Expired."""
        self._due = due
        if due < self._alarm_at:
            self.silence()
            self._set_alarm()
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def wake(self) -> None:
        """End the wait, if there is one."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def silence(self) -> None:
        """Stop the alarm: nobody will wait any more."""
        if self._timers is not None:
            self._timers.pop(self, None)
        if self._alarm is not None:
            self._alarm.cancel()
        self._timers = self._alarm = None
        self._alarm_at = math.inf

    def _set_alarm(self) -> None:
        now = time.monotonic()
        self._alarm_at = min(self._due, now + LONG)
        if self._due - now > LONG:
            self._timers = set_timer(self, LONG, Waits._ring, self._loop)
        else:
            self._alarm = self._loop.call_later(self._due - now, self._ring)

    def _ring(self) -> None:
        self._timers = self._alarm = None
        self._alarm_at = math.inf
        waiter = self._waiter
        if waiter is None or waiter.done() or self._due == math.inf:
            return
        if time.monotonic() < self._due - EARLY:
            self._set_alarm()
        else:
            self._waiter = None  # else the error, whose traceback holds who waited, would stay
            waiter.set_exception(Expired())
