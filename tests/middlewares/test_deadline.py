"""DeadlineMiddleware: one clock over the whole exchange."""

from __future__ import annotations

import time

import anyio
import pytest

from llmgw import errors, layer, stack
from llmgw.asgi import BODY, START, Message, Receive, Scope, Send
from llmgw.exchange import EXCHANGE, enter
from llmgw.middlewares.deadline import HEADER, DeadlineMiddleware
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.testing import ScriptedApp, exchange, no_receive, no_send

EVENTS = [(b"content-type", b"text/event-stream")]


async def hang(scope: Scope, receive: Receive, send: Send) -> None:
    await anyio.sleep_forever()


async def test_what_takes_too_long_is_a_504() -> None:
    """With how long was waited."""
    with anyio.fail_after(60), pytest.raises(errors.TimeoutError, match=r"0\.05 s") as caught:
        await exchange(DeadlineMiddleware(hang, total=0.05))

    assert caught.value.status == 504


async def test_begun_stream_ends_with_an_error_event() -> None:
    """In the stack, as any error in a stream."""

    async def stall(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": START, "status": 200, "headers": EVENTS})
        await send({"type": BODY, "body": b"data: {}\n\n", "more_body": True})
        await anyio.sleep_forever()

    layers = [layer(ErrorMapMiddleware), layer(DeadlineMiddleware, total=0.05)]
    with anyio.fail_after(60):
        reply = await exchange(stack(layers, stall))

    assert reply.body.startswith(b"data: {}\n\ndata: {")
    assert b"timeout_error" in reply.body


@pytest.mark.parametrize(("total", "asked", "left"), [(60, b"2.5", 2.5), (60, b"900", 60)])
async def test_a_header_may_shorten_the_clock_not_lengthen_it(
    total: float, asked: bytes, left: float
) -> None:
    """The layers below see what is left."""
    seen: list[float] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope[EXCHANGE].remaining())
        await ScriptedApp([200])(scope, receive, send)

    await exchange(DeadlineMiddleware(look, total=total), headers=[(HEADER, asked)])

    assert left - 1 < seen[0] <= left


@pytest.mark.parametrize("value", [b"", b"soon", b"0", b"-1", b"nan", b"\xff"])
async def test_a_header_that_is_no_positive_number_is_refused(value: bytes) -> None:
    """With its name."""
    with pytest.raises(errors.InvalidRequestError) as caught:
        await exchange(DeadlineMiddleware(ScriptedApp([])), headers=[(HEADER, value)])

    assert caught.value.param == "x-request-timeout"


async def test_a_slow_client_costs_no_time() -> None:
    """While ``send`` waits the clock stands still, for the layers below too."""
    lefts: list[float] = []
    began = time.monotonic()

    async def slow(message: Message) -> None:
        await anyio.sleep(0.1)

    known, scope, receive, send = enter({"type": "http", "headers": []}, no_receive, slow)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        lefts.append(known.remaining())
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": b""})
        lefts.append(known.remaining())

    await DeadlineMiddleware(answer, total=60)(scope, receive, send)

    assert lefts[0] - lefts[1] <= time.monotonic() - began - 0.19


async def test_an_app_that_lingers_after_its_response_is_no_timeout() -> None:
    """The client has all of it."""

    async def linger(scope: Scope, receive: Receive, send: Send) -> None:
        await ScriptedApp([200])(scope, receive, send)
        await anyio.sleep_forever()

    with anyio.fail_after(60):
        assert (await exchange(DeadlineMiddleware(linger, total=0.05))).status == 200


async def test_cancellation_from_outside_is_no_timeout() -> None:
    """It goes on."""
    with anyio.move_on_after(0.05) as scope:
        await exchange(DeadlineMiddleware(hang, total=60))

    assert scope.cancelled_caught


async def test_other_scope_types_pass_through() -> None:
    """A lifespan lasts as long as it lasts."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    await DeadlineMiddleware(note)(scope, no_receive, no_send)

    assert seen[0] is scope
