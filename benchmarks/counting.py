"""Counting: what an app does for a request, by numbers that are the same on a busy machine."""

from __future__ import annotations

import asyncio
import gc
import heapq
import statistics
import sys
import tracemalloc
from collections.abc import Sequence
from types import FrameType
from typing import Any

import anyio
import attrs

from llmgw import logs
from llmgw.apps.bench_drive import Client, Request
from llmgw.asgi import ASGIApp, Header, Message, Receive, Scope, Send
from llmgw.exchange import Deployment
from llmgw.providers.base import Answer, Provider
from llmgw.series import BATCH
from llmgw.wire import Call

REQUESTS = 40  # for each number; chosen
WARM = 2 * BATCH  # requests: the metrics have been counted once, too


@attrs.define(eq=False)
class Marks:
    """What is noted on an exchange's way."""

    inner: int = 0  # allocated blocks, when the request is at the model


MARKS = Marks()


@attrs.frozen
class MarkedApp:
    """An app that marks when it is asked."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        MARKS.inner = sys.getallocatedblocks()
        await self.app(scope, receive, send)


@attrs.frozen
class MarkedProvider:
    """A provider that marks when it is asked."""

    provider: Provider

    async def open(
        self, call: Call, deployment: Deployment, headers: Sequence[Header], due: float
    ) -> Answer:
        """See Provider."""
        MARKS.inner = sys.getallocatedblocks()
        return await self.provider.open(call, deployment, headers, due)

    async def aclose(self) -> None:
        """See Provider."""
        await self.provider.aclose()


@attrs.define(eq=False)
class PeakClient(Client):
    """A client that notes the most bytes that were allocated since the message before."""

    before: int = 0
    peaks: list[int] = attrs.field(factory=list[int])

    async def send(self, message: Message) -> None:
        """Take a message."""
        await super().send(message)
        self.peaks.append(tracemalloc.get_traced_memory()[1] - self.before)
        tracemalloc.reset_peak()
        self.before = tracemalloc.get_traced_memory()[0]


async def each(app: ASGIApp, request: Request, times: int) -> list[int]:
    """Send requests one after the other; the blocks that each held at the model."""
    scope, held = request.scope(), [0] * times
    for number in range(times):
        client, given = Client(request.body), dict(scope)
        before = sys.getallocatedblocks()
        await app(given, client.receive, client.send)
        held[number] = MARKS.inner - before
        if client.status != 200:
            raise RuntimeError(f"the app answered {client.status}")
        await anyio.lowlevel.checkpoint()
    return held


async def calls(app: ASGIApp, request: Request) -> float:
    """Python function calls a request, the driver's own included: the median's.

    A timer that many requests share rings during one of them. How often asyncio compares its timers
    is chance.
    """
    count, compare = 0, asyncio.TimerHandle.__lt__.__code__

    def note(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code is not compare

    found: list[int] = []
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for _ in range(REQUESTS):
            count = 0
            await each(app, request, 1)
            found.append(count)
    finally:
        sys.setprofile(before)
    return statistics.median(found)


async def peaks(app: ASGIApp, request: Request) -> tuple[float, float]:
    """The most bytes at once for a request, and for one of its messages."""
    scope = request.scope()
    requests: list[int] = []
    messages: list[int] = []
    tracemalloc.start()
    try:
        for _ in range(REQUESTS):
            client, given = PeakClient(request.body), dict(scope)
            tracemalloc.reset_peak()
            client.before = tracemalloc.get_traced_memory()[0]
            await app(given, client.receive, client.send)
            requests.append(client.peaks[0])  # until the answer begins
            messages += client.peaks[2:-1]
            logs.flush()
            await anyio.lowlevel.checkpoint()
    finally:
        tracemalloc.stop()
    return statistics.median(requests), statistics.median(messages or [0])


@attrs.frozen
class Counts:
    """What a request takes."""

    calls: float
    blocks: float
    peak: float  # bytes, until its answer begins
    message_peak: float
    left: float
    kept: float


def blocks() -> int:
    """What is allocated, but for timers that asyncio keeps until their time though cancelled."""
    loop: Any = asyncio.get_running_loop()
    cancelled = [timer for timer in loop._scheduled if timer.cancelled()]
    loop._scheduled[:] = [timer for timer in loop._scheduled if not timer.cancelled()]
    heapq.heapify(loop._scheduled)
    loop._timer_cancelled_count -= len(cancelled)
    cancelled.clear()
    return sys.getallocatedblocks()


async def count(app: ASGIApp, request: Request) -> Counts:
    """Count, once everything is warm; the collector is off."""
    await each(app, request, WARM)  # labels, caches, free lists
    called = await calls(app, request)
    await each(app, request, REQUESTS)
    held = statistics.median(await each(app, request, REQUESTS))
    peak, message_peak = await peaks(app, request)
    gc.collect()
    before = blocks()
    for _ in range(REQUESTS):
        await each(app, request, 1)
        logs.flush()  # lines that are freed together fill CPython's free lists
    left = gc.collect() / REQUESTS
    kept = max(0, blocks() - before) / REQUESTS
    return Counts(called, held, peak, message_peak, left, kept)
