"""Exchange and Attempt: what layers share, made by whoever is outermost."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import anyio
import pytest

from llmgw._concurrency.block import Block
from llmgw.asgi import BODY, START, Message, Receive, Scope, Send
from llmgw.exchange import EXCHANGE, Attempt, Deployment, Exchange, attempt_of, enter, new_id
from llmgw.testing import exchange, no_receive, no_send


async def test_the_outermost_makes_it_the_others_find_it() -> None:
    """One Exchange, one scope, one writer of headers."""
    scope: Scope = {"type": "http"}
    first, inner, receive, send = enter(scope, no_receive, no_send)

    assert enter(inner, receive, send) == (first, inner, receive, send)
    assert EXCHANGE not in scope


async def test_headers_of_the_exchange_are_on_the_response() -> None:
    """They replace the app's own of that name, and leave the others."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        known, scope, receive, send = enter(scope, receive, send)
        known.headers[b"x-a"] = b"layer"
        start: Message = {"type": "http.response.start", "status": 200}
        await send(
            {**start, "headers": [(b"x-a", b"app"), (b"set-cookie", b"1"), (b"set-cookie", b"2")]}
        )
        await send({"type": "http.response.body", "body": b""})

    reply = await exchange(app)

    assert sorted(reply.messages[0]["headers"]) == [
        (b"set-cookie", b"1"),
        (b"set-cookie", b"2"),
        (b"x-a", b"layer"),
    ]


async def test_what_goes_out_is_noted() -> None:
    """Status, the place in the stream, the end: no layer needs to look at messages for it."""
    known, _, _, send = enter({"type": "http"}, no_receive, taken)
    stages: list[tuple[int | None, bool, bool]] = []

    async def say(message: Message) -> None:
        await send(message)
        stages.append((known.status, known.open_stream, known.ended))

    kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await say({"type": START, "status": 201, "headers": kind})
    await say({"type": BODY, "body": b"data: 1", "more_body": True})
    await say({"type": BODY, "body": b"\n\n", "more_body": True})
    await say({"type": BODY, "body": b"", "more_body": True})
    await say({"type": BODY, "body": b"x"})
    await say({"type": "http.response.trailers", "headers": []})

    between, within = (201, True, False), (201, False, False)
    assert stages == [between, within, between, between, (201, False, True), (201, False, True)]


async def taken(message: Message) -> None:
    """A client that reads at once."""


async def test_other_bodies_are_no_open_stream() -> None:
    """Nor is what has not begun."""
    known, _, _, send = enter({"type": "http"}, no_receive, taken)
    assert not known.open_stream

    await send({"type": START, "status": 200, "headers": [(b"content-type", b"text/html")]})

    assert not known.open_stream


@pytest.mark.parametrize(
    ("sent", "left", "error", "status"),
    [
        ((200, True), False, None, 200),
        ((200, True), True, None, 200),
        ((200, False), True, None, 499),
        ((200, False), False, KeyError(), 500),
        (None, False, KeyError(), 500),
        (None, True, KeyError(), 499),
        (None, False, GeneratorExit(), 499),
        (None, False, None, 500),
        ((404, False), False, None, 404),
    ],
)
def test_the_status_for_the_books(
    sent: tuple[int, bool] | None, left: bool, error: BaseException | None, status: int
) -> None:
    """What the client got; else why it got nothing, or not all."""
    known = Exchange(left=left)
    if sent is not None:
        known.status, known.ended = sent

    assert known.final_status(error) == status


async def test_a_disconnect_before_the_end_is_noted() -> None:
    """After it, it is none."""

    async def leave() -> Message:
        return {"type": "http.disconnect"}

    for end in (False, True):
        known, _, receive, send = enter({"type": "http"}, leave, taken)
        if end:
            await send({"type": BODY, "body": b""})
        await receive()

        assert known.left is not end


async def test_a_send_that_fails_is_noted_and_raised() -> None:
    """The client left."""

    async def broken(message: Message) -> None:
        raise ConnectionResetError

    known, _, _, send = enter({"type": "http"}, no_receive, broken)
    with pytest.raises(ConnectionResetError):
        await send({"type": BODY, "body": b""})

    assert (known.left, known.ended) == (True, False)


async def slow(message: Message) -> None:
    """A client that takes as many seconds as the body says."""
    if message.get("body"):
        await anyio.sleep(float(message["body"]))


async def test_the_clock_stands_still_while_a_message_waits() -> None:
    """And so does the deadline that layers see; what does not wait touches neither."""
    known, _, _, send = enter({"type": "http"}, no_receive, slow)
    with anyio.fail_after(60), Block(1.1) as known.clock:
        known.deadline = time.monotonic() + 1.1
        await send({"type": BODY, "body": b"", "more_body": True})
        for _ in range(2):
            await send({"type": BODY, "body": b"0.6", "more_body": True})
        assert known.remaining() > 0

    assert not known.clock.cut


async def test_a_client_that_reads_nothing_is_gone() -> None:
    """After ``send_s`` seconds of one message."""
    known, _, _, send = enter({"type": "http"}, no_receive, slow)
    known.send_s = 1
    for _ in range(3):
        await send({"type": BODY, "body": b"0.4", "more_body": True})
    assert not known.left

    with anyio.fail_after(60), pytest.raises(ConnectionAbortedError, match="for 1 s"):
        await send({"type": BODY, "body": b"60", "more_body": True})

    assert known.left


async def test_cancellation_while_a_message_waits_goes_on() -> None:
    """It is not taken for the client's."""
    known, _, _, send = enter({"type": "http"}, no_receive, slow)
    known.send_s = 60
    with anyio.move_on_after(0.01) as scope:
        await send({"type": BODY, "body": b"60", "more_body": True})

    assert scope.cancelled_caught
    assert not known.left


def test_ids_are_hexadecimal_and_differ() -> None:
    """32 digits, as a trace id."""
    ids = {new_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in ids)


FORK = """
import os
from llmgw.exchange import new_id
from llmgw.routing import _dice
new_id()
for _ in range(3):
    if not os.fork():
        print(new_id(), _dice.random(), flush=True)
        os._exit(0)
    os.wait()
print(new_id(), _dice.random(), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_workers_make_different_ids() -> None:
    """And choose differently: a copy of a random generator goes on as the other does."""
    command = [sys.executable, "-c", FORK]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    assert len(set(printed)) == 8


def test_an_attempt_is_found_or_made() -> None:
    """Alone, an app has a first attempt."""
    known = Attempt(3)

    assert attempt_of({"llmgw.attempt": known}) is known
    assert attempt_of({}).number == 1


def test_a_deployment_does_not_show_its_key() -> None:
    """Nor its headers, which may hold one."""
    shown = repr(Deployment("groq", "m", api_key="sk-secret", headers=(("x", "sk-other"),)))

    assert "sk-" not in shown


def test_nothing_is_known_at_first() -> None:
    """Readers take None for not known."""
    known = Exchange()

    assert (known.request_id, known.key, known.model, known.answer) == (None,) * 4
