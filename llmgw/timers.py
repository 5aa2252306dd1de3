"""Timers: many waits of one length, for the price of one.

Waits of one length are due in the order in which they began: the loop's own timer is set for the
first alone, the rest is an entry in a dict. To set and cancel a timer of the loop costs 0.6 to 2
us, and nearly all are cancelled; an entry costs 0.2. What ends takes its entry out; the timer finds
nobody, and is not set again.

Only on asyncio. A loop's Timers are kept by the loop itself, and go with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

KEY = "llmgw_timers"  # the loop's attribute
EARLY = 0.001  # seconds: uvloop counts in milliseconds, and may be so much too early

Call = Callable[[Any], object]


class Timers(dict[Any, float]):
    """Who waits, and until when: ``call(who)`` is called then, if who is still in here.

    At most ``late`` seconds too late, so that one turn of the loop does for many.
    """

    __slots__ = ("call", "late", "running")

    def __init__(self, call: Call, late: float) -> None:
        """With nobody."""
        super().__init__()
        self.call, self.late, self.running = call, late, False

    def run(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Set the loop's timer: in no context, it must not keep a request's variables."""
        self.running = True
        loop.call_later(seconds, self._ring, context=Context())

    def _ring(self) -> None:
        self.running = False
        loop = asyncio.get_running_loop()
        now, due = loop.time(), list[Any]()
        for who, when in self.items():
            if when > now + EARLY:
                self.run(loop, max(when - now, self.late))
                break
            due.append(who)
        for who in due:
            del self[who]
        for who in due:
            self.call(who)


def set_timer(
    who: object, seconds: float, call: Call, loop: asyncio.AbstractEventLoop, late: float = 0.0
) -> Timers:
    """``call(who)`` in ``seconds``, unless who is taken out of what is returned: by ``pop``.

    For lengths that come again and again. A call must not raise.
    """
    try:
        timers: Timers = loop.__dict__[KEY][call, seconds]  # uvloop's loop has one, too
    except KeyError:
        known = loop.__dict__.setdefault(KEY, {})
        timers = known.setdefault((call, seconds), Timers(call, late))
    timers[who] = loop.time() + seconds
    if not timers.running:
        timers.run(loop, seconds)
    return timers
