"""HoldMiddleware: a stream that is slow to begin is held open with comments."""

from __future__ import annotations

import json

import anyio
import anyio.lowlevel
import attrs
import pytest

from llmgw import errors, layer, stack
from llmgw.asgi import BODY, START, Message, Receive, Scope, Send
from llmgw.exchange import EXCHANGE, Exchange
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.middlewares.hold import HoldMiddleware
from llmgw.middlewares.retry import RetryMiddleware
from llmgw.retrying import RetryPolicy
from llmgw.sse import COMMENT
from llmgw.testing import Reply, ScriptedApp, exchange, no_receive, no_send

EVENTS = [(b"content-type", b"text/event-stream")]
CALL = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = json.dumps({**CALL, "stream": True}).encode()
WHOLE = json.dumps(CALL).encode()
EVENT = b'data: {"x": 1}\n\n'


@attrs.define
class Slow:
    """Answers after ``wait`` seconds, or raises."""

    wait: float = 0.0
    status: int = 200
    error: Exception | None = None
    headers: list[tuple[bytes, bytes]] = attrs.field(factory=lambda: EVENTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await anyio.sleep(self.wait)
        if self.error is not None:
            raise self.error
        await send({"type": START, "status": self.status, "headers": self.headers})
        await send({"type": BODY, "body": EVENT, "more_body": True})
        await send({"type": BODY, "body": b""})


async def held(app: Slow, body: bytes = STREAM) -> Reply:
    layers = [
        layer(ErrorMapMiddleware),
        layer(HoldMiddleware, hold_s=0.05, heartbeat_s=0.02),
    ]
    with anyio.fail_after(60):
        return await exchange(stack(layers, app), body)


async def test_a_quick_stream_is_not_touched() -> None:
    """No comment, the app's own headers."""
    reply = await held(Slow())

    assert reply.body == EVENT
    assert reply.messages[0]["headers"] == EVENTS


async def test_a_slow_stream_begins_with_comments() -> None:
    """200 and a heartbeat; then the app's events, its start swallowed."""
    reply = await held(Slow(0.2))

    comments, _, rest = reply.body.rpartition(COMMENT)
    assert reply.status == 200
    assert reply.headers[b"content-type"].startswith(b"text/event-stream")
    assert comments.count(COMMENT) >= 2
    assert rest == EVENT
    assert [message["type"] for message in reply.messages].count(START) == 1


async def test_what_is_no_stream_is_never_held() -> None:
    """A JSON body cannot begin with a comment."""
    assert (await held(Slow(0.15), WHOLE)).body == EVENT


async def test_a_held_stream_that_fails_ends_in_one_error_event() -> None:
    """The 200 is out; the error comes as an event, without [DONE]."""
    reply = await held(Slow(0.1, error=errors.ProviderUnavailableError("down", provider="groq")))

    assert reply.status == 200
    assert reply.body.count(b"data: ") == 1
    assert json.loads(reply.body.rpartition(b"data: ")[2])["error"]["message"] == "down"


async def test_a_stream_that_fails_early_has_its_status() -> None:
    """Nothing was sent: the error is a JSON body."""
    assert (await held(Slow(error=errors.RateLimitError("x")))).status == 429


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [(503, EVENTS, "provider_error"), (200, [], "provider_error"), (429, [], "rate_limit_error")],
)
async def test_an_app_that_answers_no_stream_behind_our_200(
    status: int, headers: list[tuple[bytes, bytes]], kind: str
) -> None:
    """Its status can no longer be told: the error event says it, and none of its body comes."""
    reply = await held(Slow(0.1, status, headers=headers))

    assert EVENT not in reply.body
    assert json.loads(reply.body.rpartition(b"data: ")[2])["error"]["type"] == kind


@pytest.mark.parametrize("slow", [0, 1, 2])
async def test_an_event_waits_until_our_own_message_has_gone_out(slow: int) -> None:
    """A client reads slowly our 200, the first comment or the second; the app answers meanwhile."""
    sent: list[Message] = []
    sending, answering = anyio.Event(), anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await sending.wait()
        answering.set()
        await Slow()(scope, receive, send)

    async def send(message: Message) -> None:
        if len(sent) == slow and not sending.is_set():
            sending.set()
            await answering.wait()
            for _ in range(5):  # turns in which an event could overtake
                await anyio.lowlevel.checkpoint()
        sent.append(message)

    inbox: list[Message] = [{"type": "http.request", "body": STREAM, "more_body": False}]

    async def receive() -> Message:
        if inbox:
            return inbox.pop()
        await anyio.sleep_forever()
        raise AssertionError

    scope: Scope = {"type": "http", "method": "POST", "headers": []}
    with anyio.fail_after(60):
        await HoldMiddleware(app, hold_s=0.01, heartbeat_s=0.01)(scope, receive, send)

    assert sent[0]["type"] == START
    comments = [COMMENT] * max(1, slow)
    assert [message["body"] for message in sent[1:]] == [*comments, EVENT, b""]


async def test_retries_go_on_below() -> None:
    """The client sees comments, then the answer of the third attempt."""
    down = errors.ProviderUnavailableError("down", provider="groq")
    attempts = iter([Slow(0.05, error=down), Slow(0.05, error=down), Slow(0.05)])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await next(attempts)(scope, receive, send)

    layers = [
        layer(HoldMiddleware, hold_s=0.05, heartbeat_s=0.05),
        layer(RetryMiddleware, policy=RetryPolicy(backoff=0)),
    ]
    with anyio.fail_after(60):
        reply = await exchange(stack(layers, app), STREAM)

    assert reply.body.endswith(COMMENT + EVENT)


async def test_a_client_that_leaves_before_a_whole_answer_ends_the_app() -> None:
    """Once: the app is not called again for nobody."""
    known, asked = Exchange(), anyio.Event()
    calls = 0

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal calls
        calls += 1
        asked.set()
        await anyio.sleep_forever()

    inbox: list[Message] = [{"type": "http.request", "body": WHOLE, "more_body": False}]

    async def receive() -> Message:
        if inbox:
            return inbox.pop()
        await asked.wait()
        return {"type": "http.disconnect"}

    scope: Scope = {"type": "http", "method": "POST", "headers": [], EXCHANGE: known}
    with anyio.fail_after(60):
        await HoldMiddleware(hang)(scope, receive, no_send)

    assert (known.left, calls) == (True, 1)


async def test_a_client_that_leaves_ends_the_app() -> None:
    """Hold runs the one watcher of the gateway: while it holds, and before."""
    gone = anyio.Event()
    known = Exchange()
    inbox: list[Message] = [{"type": "http.request", "body": STREAM, "more_body": False}]

    async def receive() -> Message:
        if inbox:
            return inbox.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        gone.set()

    scope: Scope = {"type": "http", "method": "POST", "headers": [], EXCHANGE: known}
    with anyio.fail_after(60):
        await HoldMiddleware(Slow(60), hold_s=0.02)(scope, receive, send)

    assert known.left
    assert sent[0]["type"] == START


async def test_a_bad_request_is_refused() -> None:
    """Whether to hold depends on the body."""
    with pytest.raises(errors.InvalidRequestError):
        await exchange(HoldMiddleware(ScriptedApp([])), b"{")


async def test_a_client_that_left_while_sending_is_not_answered() -> None:
    """There is no request."""
    known = Exchange()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope: Scope = {"type": "http", "method": "POST", "headers": [], EXCHANGE: known}
    await HoldMiddleware(ScriptedApp([]))(scope, receive, no_send)

    assert known.left


@pytest.mark.parametrize("scope", [{"type": "lifespan"}, {"type": "http", "method": "GET"}])
async def test_what_is_no_call_passes_through(scope: Scope) -> None:
    """Unchanged."""
    seen: list[Scope] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    await HoldMiddleware(note)(scope, no_receive, no_send)

    assert seen[0] is scope
