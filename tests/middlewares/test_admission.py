"""AdmissionMiddleware: what comes in is bounded."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from llmgw import errors, layer, stack
from llmgw.asgi import BODY, START, ASGIApp, Message, Receive, Scope, Send
from llmgw.body import Body
from llmgw.exchange import EXCHANGE, Exchange, enter
from llmgw.middlewares.admission import AdmissionMiddleware
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.middlewares.retry import RetryMiddleware
from llmgw.testing import ScriptedApp, exchange, no_receive, no_send


async def test_more_than_the_limit_at_once_are_refused() -> None:
    """At once, with Retry-After; when one has ended there is room again."""
    running, end = anyio.Event(), anyio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        running.set()
        await end.wait()
        await ScriptedApp([200])(scope, receive, send)

    app = stack([layer(ErrorMapMiddleware), layer(AdmissionMiddleware, max_concurrent=1)], wait)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange, app)
        await running.wait()
        refused = await exchange(app)
        assert (refused.status, refused.headers[b"retry-after"]) == (503, b"1")
        assert b"x-should-retry" not in refused.headers  # it is worth another try
        end.set()

    assert (await exchange(app)).status == 200


async def test_room_is_given_back_however_an_exchange_ends() -> None:
    """By an error, by cancellation, by a client that left."""

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("bug")

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    script: Iterator[ASGIApp] = iter([fail, hang, ScriptedApp([200])])

    async def play(scope: Scope, receive: Receive, send: Send) -> None:
        await next(script)(scope, receive, send)

    bounded = AdmissionMiddleware(play, max_concurrent=1)
    with pytest.raises(KeyError):
        await exchange(bounded)
    with anyio.move_on_after(0.02):
        await exchange(bounded)

    assert (await exchange(bounded)).status == 200


async def test_body_that_is_too_large_is_a_413() -> None:
    """Before any layer holds it."""
    with pytest.raises(errors.InvalidRequestError) as caught:
        await exchange(AdmissionMiddleware(ScriptedApp([]), max_body=4), b"abc", b"de")

    assert caught.value.status == 413


async def test_body_that_is_too_slow_is_a_408() -> None:
    """Trickling a byte now and then does not keep a place."""

    async def receive() -> Message:
        await anyio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    app = AdmissionMiddleware(ScriptedApp([]), body_s=0.1)
    with anyio.fail_after(60), pytest.raises(errors.InvalidRequestError) as caught:
        await app({"type": "http", "headers": []}, receive, no_send)

    assert (caught.value.status, caught.value.code) == (408, "request_timeout")


async def test_layers_below_read_the_body_without_reading_it_again() -> None:
    """It is handed on as a Body."""
    seen: list[Receive] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(receive)
        await ScriptedApp([200])(scope, receive, send)

    await exchange(AdmissionMiddleware(look), b"abc")

    assert isinstance(seen[0], Body)
    assert seen[0].data == b"abc"


async def test_client_that_reads_nothing_is_gone() -> None:
    """A ``send`` that takes too long means what a broken connection means: nobody is there."""
    inbox: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if inbox:
            return inbox.pop()
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        await anyio.sleep_forever()

    app = stack(
        [layer(AdmissionMiddleware, send_s=0.05), layer(RetryMiddleware)], ScriptedApp([200])
    )
    known, scope, hear, say = enter({"type": "http", "headers": []}, receive, send)
    with anyio.fail_after(60):
        await app(scope, hear, say)

    assert known.left


async def test_slow_reader_is_not_cut() -> None:
    """Each message has the time for itself."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        await anyio.sleep(0.3)
        sent.append(message)

    async def chunks(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": START, "status": 200, "headers": []})
        for _ in range(2):
            await send({"type": BODY, "body": b"x", "more_body": True})
        await send({"type": BODY, "body": b""})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await AdmissionMiddleware(chunks, send_s=1)({"type": "http", "headers": []}, receive, send)

    assert len(sent) == 4


async def test_client_that_left_while_sending_takes_no_room() -> None:
    """And the app is not called."""
    known = Exchange()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    app = AdmissionMiddleware(ScriptedApp([]), max_concurrent=1)
    for _ in range(2):
        await app({"type": "http", "headers": [], EXCHANGE: known}, receive, no_send)

    assert known.left


async def test_other_scope_types_pass_through() -> None:
    """A lifespan takes no room."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    await AdmissionMiddleware(note, max_concurrent=0)(scope, no_receive, no_send)

    assert seen[0] is scope
