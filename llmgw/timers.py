"""Timers: many waits of one length, for the price of one.

Waits of one length are due in the order in which they began: the loop's own timer is set for the
first alone, the rest is an entry in a dict. To set and cancel a timer of the loop costs 0.6 to 2
us, and nearly all are cancelled; an entry costs 0.3. What ends takes its entry out; a timer that
finds nobody is not set again.

Only on asyncio. A loop's Timers are kept by the loop itself, and go with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

KEY = "llmgw_timers"  # the loop's attribute
EARLY = 0.001  # seconds: uvloop counts in milliseconds, and may be so much too early
LONGEST = 60.0  # seconds until a timer finds that nobody waits any more; chosen

Call = Callable[[Any], object]


class Timers(dict[Any, float]):
    """Who waits ``seconds``, and until when: ``call(who)`` then, if who is still in here.

    At most ``late`` seconds too late, so that one turn of the loop does for many.
    """

    __slots__ = ("call", "late", "seconds")

    def __init__(self, call: Call, seconds: float, late: float) -> None:
        """With nobody."""
        super().__init__()
        self.call, self.seconds, self.late = call, seconds, late

    def run(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Set the loop's timer: in no context, it must not keep a request's variables."""
        loop.call_later(min(seconds, LONGEST), self._ring, context=Context())

    def _ring(self) -> None:
        loop = asyncio.get_running_loop()
        now, due = loop.time(), list[Any]()
        for who, when in self.items():
            if when > now + EARLY:
                self.run(loop, max(when - now, self.late))
                break
            due.append(who)
        else:  # nobody is left: it ends; clients choose lengths, too, and those must not pile up
            del loop.__dict__[KEY][self.call, self.seconds]
        for who in due:
            del self[who]
        for who in due:
            self.call(who)


def set_timer(
    who: object, seconds: float, call: Call, loop: asyncio.AbstractEventLoop, late: float = 0.0
) -> Timers:
    """``call(who)`` in ``seconds``, unless who is taken out of what is returned: by ``pop``.

    For lengths that come again and again, each always with the same ``late``. A call must not
    raise.
    """
    try:
        timers: Timers = loop.__dict__[KEY][call, seconds]  # uvloop's loop has one, too
    except KeyError:
        timers = Timers(call, seconds, late)
        loop.__dict__.setdefault(KEY, {})[call, seconds] = timers
        timers.run(loop, seconds)
    timers[who] = loop.time() + seconds
    return timers
