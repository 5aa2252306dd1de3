"""Shutdown: SIGTERM drains the gateway before the server hears of it.

Under uvicorn, with or without workers: its handler is chained, so that it goes on listening (for
readiness probes, and to refuse politely) while what runs is brought to an end. Where asyncio or
trio handle the signal themselves (hypercorn), nothing can be chained: there the server stops
listening at once, and the lifespan's end drains.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import FrameType

import anyio

from llmgw.drain import Drain
from llmgw.portal import on_asyncio


@asynccontextmanager
async def drained_by_sigterm(drain: Drain, seconds: float) -> AsyncGenerator[None]:
    """While the block runs, SIGTERM drains, and then goes on to the handler that was there.

    A second SIGTERM does not wait: what runs is cut.
    """
    before = signal.getsignal(signal.SIGTERM)
    main = threading.current_thread() is threading.main_thread()
    if not main or not on_asyncio() or not callable(before):
        yield
        return
    loop = asyncio.get_running_loop()
    came = anyio.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        asked_before, drain.begun = drain.begun, True
        loop.call_soon_threadsafe(drain.cut if asked_before else came.set)

    async def wait() -> None:
        await came.wait()
        await drain.finish(seconds)
        before(signal.SIGTERM, None)

    signal.signal(signal.SIGTERM, handle)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            yield
            tasks.cancel_scope.cancel()
    finally:
        signal.signal(signal.SIGTERM, before)
