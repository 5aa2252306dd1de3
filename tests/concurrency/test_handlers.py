"""Users' handlers inside our layers: what they clean up under a shield ends whole.

However a request ends: its client leaves, its deadline runs out, a drain cuts it, or two of them;
and wherever the handler is.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence

import anyio
import attrs
import pytest

from llmgw import layer, stack
from llmgw.asgi import BODY, START, ASGIApp, Message, Receive, Scope, Send
from llmgw.drain import Drain
from llmgw.middlewares.access_log import AccessLogMiddleware
from llmgw.middlewares.admission import AdmissionMiddleware
from llmgw.middlewares.deadline import DeadlineMiddleware
from llmgw.middlewares.drain import DrainMiddleware
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.middlewares.hold import HoldMiddleware
from llmgw.middlewares.retry import RetryMiddleware
from llmgw.stack import Layer

SAVE = 1.5  # seconds of a clean-up; a second cancellation after one second once cut it
WAYS = ("leaves", "deadline", "drain")
PHASES = ("before", "streaming", "sending")
CALL = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
STREAM = [(b"content-type", b"text/event-stream")]


@attrs.define(eq=False)
class Request:
    """One request, how it is ended, and what its handler did."""

    phase: str
    ways: Sequence[str]
    drain: Drain = attrs.field(factory=Drain)
    waiting: anyio.Event = attrs.field(factory=anyio.Event)
    leaves: anyio.Event = attrs.field(factory=anyio.Event)
    done: list[str] = attrs.field(factory=list[str])
    sent: list[Message] = attrs.field(factory=list[Message])
    asked: bool = False
    app: ASGIApp | None = None  # in place of the handler

    async def handler(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait in the phase for what never comes; then save under a shield."""
        try:
            if self.phase != "before":
                await send({"type": START, "status": 200, "headers": STREAM})
                await send({"type": BODY, "body": b"data: {}\n\n", "more_body": True})
            if self.phase == "sending":
                await send({"type": BODY, "body": b"data: slow\n\n", "more_body": True})
            self.waiting.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(SAVE)
                self.done.append("saved")
        self.done.append("went on")

    async def receive(self) -> Message:
        """The server's side."""
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": CALL, "more_body": False}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """A client that does not read its second event."""
        if message.get("body") == b"data: slow\n\n":
            self.waiting.set()
            await anyio.sleep_forever()
        self.sent.append(message)

    def layers(self) -> list[Layer]:
        """The layers that have to do with time."""
        total = 0.3 if "deadline" in self.ways else 600.0
        return [
            layer(AccessLogMiddleware),
            layer(ErrorMapMiddleware),
            layer(DrainMiddleware, drain=self.drain),
            layer(AdmissionMiddleware, send_s=0.3 if self.phase == "sending" else 600),
            layer(HoldMiddleware, hold_s=600),
            layer(DeadlineMiddleware, total=total),
            layer(RetryMiddleware),
        ]

    async def run(self) -> None:
        """Send the request, and end it once the handler waits."""
        app = stack(self.layers(), self.app or self.handler)
        scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.end)
                await app(scope, self.receive, self.send)

    async def end(self) -> None:
        """End it by all its ways."""
        await self.waiting.wait()
        await anyio.sleep(0.2)  # the watch listens
        if "drain" in self.ways:
            self.drain.begun = True
            self.drain.cut()
        if "leaves" in self.ways:
            self.leaves.set()


async def test_a_shielded_clean_up_ends_whole_however_the_request_ends() -> None:
    """In every phase, by every way and every two of them; nothing else of the handler runs."""
    ways = [*itertools.combinations(WAYS, 1), *itertools.combinations(WAYS, 2)]
    requests = [Request(phase, way) for phase in PHASES for way in ways]

    async with anyio.create_task_group() as tasks:
        for request in requests:
            tasks.start_soon(request.run)

    wrong = [(one.phase, one.ways, one.done) for one in requests if one.done != ["saved"]]
    assert not wrong


@pytest.mark.parametrize("begun", [False, True])
async def test_the_client_hears_of_a_drain_when_the_clean_up_has_ended(begun: bool) -> None:
    """A 503, or an error event."""
    request = Request("streaming" if begun else "before", ["drain"])

    await request.run()

    assert request.sent[0]["status"] == (200 if begun else 503)
    assert b"overloaded_error" in b"".join(message.get("body", b"") for message in request.sent)


async def test_a_handler_that_swallows_its_cancellation_is_cancelled_at_every_wait() -> None:
    """It can delay its end, and do nothing that waits."""
    swallowed = 0

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal swallowed
        request.waiting.set()
        while swallowed < 3:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                swallowed += 1
        await anyio.sleep_forever()

    request = Request("before", ["leaves"])
    request.app = stubborn
    await request.run()

    assert swallowed == 3


async def test_a_handler_in_an_endless_shield_keeps_its_own_request_only() -> None:
    """A drain gives it up after its time, and others are answered meanwhile."""
    drain, gone = Drain(), anyio.Event()

    async def shielded(scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope(shield=True):
            await gone.wait()

    stuck, other = Request("before", ["drain"], drain), Request("before", ["leaves"])
    app = stack([layer(DrainMiddleware, drain=drain)], shielded)
    scope: Scope = {"type": "http", "headers": []}
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_quietly, app, scope, stuck)
            await anyio.wait_all_tasks_blocked()
            await other.run()
            await drain.finish(0.01)  # it does not wait for the shield for ever
            assert len(drain.running) == 1
            gone.set()

    assert other.done == ["saved"]
    assert not drain.running


async def run_quietly(app: Callable[..., Awaitable[None]], scope: Scope, request: Request) -> None:
    await app(scope, request.receive, request.send)
