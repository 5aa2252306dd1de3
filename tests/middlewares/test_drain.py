"""DrainMiddleware: the end of a process, in order."""

from __future__ import annotations

import anyio
import pytest

from llmgw import layer, stack
from llmgw.asgi import BODY, START, ASGIApp, Receive, Scope, Send
from llmgw.drain import Drain
from llmgw.errors import OverloadedError
from llmgw.middlewares.drain import DrainMiddleware
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.testing import Reply, ScriptedApp, exchange, no_receive, no_send

EVENTS = [(b"content-type", b"text/event-stream")]


def drained(drain: Drain, app: ASGIApp) -> ASGIApp:
    return stack([layer(ErrorMapMiddleware), layer(DrainMiddleware, drain=drain)], app)


async def test_new_requests_are_refused_once_it_has_begun() -> None:
    """With Retry-After, and ``connection: close``: the next goes elsewhere."""
    drain = Drain()
    app = drained(drain, ScriptedApp([200]))

    before = await exchange(app)
    await drain.finish(0)
    after = await exchange(app)

    assert (before.status, after.status) == (200, 503)
    assert after.headers[b"retry-after"] == b"1"
    assert after.headers[b"connection"] == b"close"


async def test_what_runs_has_time_to_end() -> None:
    """And the drain ends with the last of it, not later."""
    drain = Drain()
    running, go = anyio.Event(), anyio.Event()
    replies: list[Reply] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        running.set()
        await go.wait()
        await ScriptedApp([b"whole"])(scope, receive, send)

    async def ask() -> None:
        replies.append(await exchange(drained(drain, app)))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await running.wait()
            tasks.start_soon(drain.finish, 60)
            await anyio.wait_all_tasks_blocked()
            assert await drain.ready() == "shutting down"
            go.set()

    assert replies[0].body == b"whole"


async def test_stream_that_runs_too_long_ends_in_one_error_event() -> None:
    """When its time is up; what has not begun gets a 503."""
    drain = Drain()
    running = anyio.Event()
    replies: dict[bool, Reply] = {}

    async def stall(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stream":
            await send({"type": START, "status": 200, "headers": EVENTS})
            await send({"type": BODY, "body": b"data: {}\n\n", "more_body": True})
        running.set()
        await anyio.sleep_forever()

    async def ask(begun: bool) -> None:
        path = "/stream" if begun else "/whole"
        replies[begun] = await exchange(drained(drain, stall), path=path)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, True)
            tasks.start_soon(ask, False)
            await running.wait()
            await anyio.wait_all_tasks_blocked()
            await drain.finish(0.02)

    assert replies[True].body.count(b"data: ") == 2
    assert b"overloaded_error" in replies[True].body
    assert replies[False].status == 503
    assert drain.running == set()


async def test_cancellation_from_outside_is_no_drain() -> None:
    """It goes on, and the exchange is forgotten."""
    drain = Drain()

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.02) as scope:
        await exchange(DrainMiddleware(hang, drain=drain))

    assert scope.cancelled_caught
    assert drain.running == set()


async def test_alone_it_raises() -> None:
    """An ErrorMap above is the gateway's way to say it; a service may have its own."""
    with pytest.raises(OverloadedError):
        await exchange(DrainMiddleware(ScriptedApp([]), drain=Drain(begun=True)))


async def test_other_scope_types_pass_through() -> None:
    """The lifespan's end is what drains."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    await DrainMiddleware(note, drain=Drain(begun=True))(scope, no_receive, no_send)

    assert seen[0] is scope
