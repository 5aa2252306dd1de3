"""LintMiddleware: a protocol error is an error, not a hung client."""

from __future__ import annotations

import pytest

from llmgw.asgi import ASGIApp, Message, Receive, Scope, Send
from llmgw.lint import LintError, LintMiddleware
from llmgw.testing import exchange, no_receive, no_send

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
BODY: Message = {"type": "http.response.body", "body": b""}
MORE: Message = {**BODY, "more_body": True}


def sending(*messages: Message) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def test_legal_responses_pass() -> None:
    """One start, any number of bodies, the last without more_body."""
    assert (await exchange(sending(START, MORE, BODY))).status == 200


@pytest.mark.parametrize(
    ("messages", "rule"),
    [
        pytest.param([BODY], "in state idle", id="body-before-start"),
        pytest.param([START, START], "in state body", id="two-starts"),
        pytest.param([START, BODY, BODY], "in state done", id="body-after-end"),
        pytest.param([START, MORE], "is complete", id="never-ended"),
        pytest.param([], "is complete", id="nothing"),
        pytest.param([{**START, "headers": [(b"X-A", b"")]}, BODY], "lower case", id="case"),
        pytest.param([{**START, "headers": [("x-a", "b")]}, BODY], "bytes", id="str-header"),
        pytest.param([{"type": "http.response.start"}, BODY], "status is an int", id="no-status"),
        pytest.param([{**START, "status": "200"}, BODY], "status is an int", id="str-status"),
        pytest.param([START, {**BODY, "body": "text"}], "body is bytes", id="str-body"),
    ],
)
async def test_illegal_responses_fail(messages: list[Message], rule: str) -> None:
    """Everything else names the rule that it broke."""
    with pytest.raises(LintError, match=rule):
        await exchange(sending(*messages))


async def test_other_scope_types_pass_through() -> None:
    """Lint speaks only of HTTP."""
    await LintMiddleware(sending())({"type": "lifespan"}, no_receive, no_send)


async def test_a_response_may_stay_unfinished_for_a_client_that_left() -> None:
    """Once receive has told of the disconnect, nothing more needs to be sent."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        assert (await receive())["type"] == "http.disconnect"

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await LintMiddleware(app)({"type": "http", "headers": []}, receive, send)
    assert sent == [START]


async def test_illegal_request_headers_fail() -> None:
    """The layer around must hand down a legal scope."""
    with pytest.raises(LintError, match="lower case"):
        await exchange(sending(START, BODY), headers=[(b"X-A", b"")])
