"""ErrorMapMiddleware: what the app raises becomes what OpenAI's clients understand."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import pytest

from llmgw import errors, layer, stack
from llmgw.asgi import ASGIApp, Message, Receive, Scope, Send
from llmgw.errors import GatewayError
from llmgw.exchange import EXCHANGE, Exchange
from llmgw.middlewares.error_map import ErrorMapMiddleware
from llmgw.middlewares.request_id import RequestIDMiddleware
from llmgw.testing import Reply, ScriptedApp, Step, exchange, no_receive, no_send

EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
BROKEN = errors.ProviderUnavailableError("It broke.", provider="groq", code="upstream_truncated")


def mapped(*steps: Step | int | bytes | Exception) -> ASGIApp:
    return ErrorMapMiddleware(ScriptedApp(steps))


def error_in(reply: Reply) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reply.body)["error"]
    return found


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.InvalidRequestError("x", param="messages[0].role"), 400, "invalid_request_error"),
        (errors.InvalidRequestError("x", status=413), 413, "invalid_request_error"),
        (errors.AuthError("x"), 401, "authentication_error"),
        (errors.PermissionDeniedError("x"), 403, "permission_error"),
        (errors.NotFoundError("x"), 404, "invalid_request_error"),
        (errors.RateLimitError("x"), 429, "rate_limit_error"),
        (errors.ProviderUnavailableError("x", provider="groq"), 502, "provider_error"),
        (errors.OverloadedError("x"), 503, "overloaded_error"),
        (errors.TimeoutError("x", provider="groq"), 504, "timeout_error"),
    ],
)
async def test_error_before_the_response_becomes_a_body(
    error: GatewayError, status: int, kind: str
) -> None:
    """OpenAI's object with its four fields, and the length that is true."""
    reply = await exchange(mapped(error))

    found = error_in(reply)
    assert reply.status == status
    assert found == {"message": "x", "type": kind, "param": error.param, "code": error.code}
    assert reply.headers[b"content-type"] == b"application/json"
    assert int(reply.headers[b"content-length"]) == len(reply.body)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (errors.RateLimitError("x", retry_after=2.1), b"3"),
        (errors.RateLimitError("x"), b"1"),
        (errors.OverloadedError("x", retry_after=0), b"1"),
        (errors.TimeoutError("x"), None),
    ],
)
async def test_retry_after_is_whole_and_on_every_429_and_503(
    error: GatewayError, seconds: bytes | None
) -> None:
    """Rounded up: a client that waits that long has waited long enough."""
    assert (await exchange(mapped(error))).headers.get(b"retry-after") == seconds


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.RateLimitError("x", provider="groq"), b"false"),
        (errors.TimeoutError("x", provider="groq"), b"false"),
        (BROKEN, b"false"),
        (errors.RateLimitError("x"), None),
        (errors.OverloadedError("x"), None),
        (errors.InvalidRequestError("x", provider="groq"), None),
    ],
)
async def test_client_is_told_not_to_repeat_what_was_repeated(
    error: GatewayError, told: bytes | None
) -> None:
    """A failing provider was asked often enough; our own limits are worth another try."""
    assert (await exchange(mapped(error))).headers.get(b"x-should-retry") == told


@pytest.mark.parametrize(("key", "status"), [("team-a", 502), (None, 401)])
async def test_refusal_of_our_key_is_not_the_fault_of_a_known_client(
    key: str | None, status: int
) -> None:
    """Its own key is good: a 401 would send it looking for a mistake that is ours."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        scope[EXCHANGE].key = key
        raise errors.AuthError("groq refused the gateway's key.", provider="groq")

    assert (await exchange(ErrorMapMiddleware(refuse))).status == status


async def test_begun_stream_ends_with_one_error_event() -> None:
    """The frame comes after a whole event, no [DONE] follows, and the response ends."""
    reply = await exchange(mapped(Step(chunks=[b"data: {}\n\n"], headers=EVENTS, error=BROKEN)))

    assert reply.status == 200
    assert reply.body == b"data: {}\n\n" + BROKEN.frame()
    assert json.loads(reply.body.split(b"data: ")[-1])["error"]["code"] == "upstream_truncated"


async def test_stream_without_an_event_yet_ends_with_the_error_event() -> None:
    """The headers are out: there is no other place to say it."""

    async def begin(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        raise BROKEN

    assert (await exchange(ErrorMapMiddleware(begin))).body == BROKEN.frame()


@pytest.mark.parametrize(
    ("chunk", "headers"),
    [
        pytest.param(b"data: {half", EVENTS, id="within-an-event"),
        pytest.param(b'{"half":\n\n', [(b"content-type", b"application/json")], id="no-stream"),
    ],
)
async def test_begun_response_that_cannot_say_it_is_broken_off(
    chunk: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """The error goes on to the server, which cuts the connection: no half passes for a whole."""
    seen: list[Exchange] = []

    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope[EXCHANGE])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        raise BROKEN

    with pytest.raises(errors.ProviderUnavailableError):
        await exchange(ErrorMapMiddleware(half))
    assert seen[0].error is BROKEN


async def test_error_after_the_end_changes_nothing() -> None:
    """The client has its whole answer; only the Exchange learns of it."""

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})
        raise BROKEN

    reply = await exchange(ErrorMapMiddleware(late))

    assert (reply.status, reply.body, len(reply.messages)) == (200, b"whole", 2)


async def test_nobody_is_told_when_the_client_left() -> None:
    """There is no one to answer."""

    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        scope[EXCHANGE].left = True
        raise BROKEN

    scope: Scope = {"type": "http", "headers": []}
    await ErrorMapMiddleware(leave)(scope, no_receive, no_send)


async def test_foreign_exception_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets a 500; the log says which class and where, never the text."""
    caplog.set_level(logging.ERROR, logger="llmgw")

    reply = await exchange(mapped(ValueError("sk-secret-prompt")))

    assert reply.status == 500
    assert error_in(reply)["code"] == "internal_error"
    assert "secret" not in reply.body.decode() + caplog.text
    [line] = [json.loads(record.message) for record in caplog.records if record.name == "llmgw"]
    assert line["type"] == "ValueError"
    assert "testing.py:" in line["where"]
    assert line["request_id"]


async def test_lone_error_of_a_task_group_is_that_error() -> None:
    """Frameworks wrap what a handler raised; the client sees what was meant."""
    group = ExceptionGroup("tasks", [ExceptionGroup("inner", [errors.NotFoundError("none")])])

    assert (await exchange(mapped(group))).status == 404


async def test_cancellation_goes_on() -> None:
    """A cancelled exchange is not answered."""
    with anyio.move_on_after(0.05) as cancelled:

        async def hang(scope: Scope, receive: Receive, send: Send) -> None:
            await anyio.sleep_forever()

        await exchange(ErrorMapMiddleware(hang))

    assert cancelled.cancelled_caught


async def test_good_answer_passes_unchanged() -> None:
    """Without an error the same messages go out."""
    reply = await exchange(mapped(Step(201, [b"a", b"b"], headers=[(b"x", b"y")])))

    assert (reply.status, reply.body, reply.headers) == (201, b"ab", {b"x": b"y"})


async def test_in_the_stack_the_error_is_known_to_the_layers_above() -> None:
    """They read it from the Exchange, not from the response."""
    seen: list[Exchange] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope[EXCHANGE])
        raise BROKEN

    reply = await exchange(stack([layer(RequestIDMiddleware), layer(ErrorMapMiddleware)], note))

    assert reply.status == 502
    assert seen[0].error is BROKEN


async def test_other_scope_types_pass_through() -> None:
    """An error of a lifespan is the server's to see."""

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise BROKEN

    with pytest.raises(errors.ProviderUnavailableError):
        await ErrorMapMiddleware(fail)({"type": "lifespan"}, no_receive, no_send)


async def test_send_that_fails_is_not_answered_by_another_send() -> None:
    """A server whose socket is gone raises from send: there is nothing to tell it."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await mapped(200)({"type": "http", "headers": []}, empty, send)
    assert len(sent) == 1


async def empty() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
