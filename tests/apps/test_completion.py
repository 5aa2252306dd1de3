"""The completion app alone: what it holds while it answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgw.apps.completion import CompletionApp
from llmgw.asgi import BODY, Message
from llmgw.body import Body
from llmgw.exchange import EXCHANGE, Deployment, Exchange
from llmgw.providers.echo import EchoProvider
from llmgw.wire import read_call

PROMPT = "word " * 10_000


async def silent() -> Message:
    """A client that has sent its body and says no more."""
    raise AssertionError("nobody needs to ask")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stream_holds_the_bytes_of_its_request_no_longer(stream: bool) -> None:
    """Once it has begun it may go on for minutes; what is answered at once keeps them till then."""
    call = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": PROMPT}]}
    body = Body(json.dumps(call).encode(), True, False, silent, watched=True)
    asked = body.decode(read_call)
    deployment = Deployment("echo", "m", options=(("chunks", "2"),))
    app = CompletionApp({"openai": EchoProvider()}, resolve=lambda exchange: deployment)
    scope: dict[str, Any] = {"type": "http", "headers": [], EXCHANGE: Exchange()}
    held: list[int] = []
    answer = b""

    async def send(message: Message) -> None:
        nonlocal answer
        if message["type"] == BODY:
            held.append(len(body.data) + len(asked.fields))
            answer += message["body"]

    await app(scope, body, send)

    assert all(held) is not stream
    assert any(held) is not stream
    assert b"word" in answer
