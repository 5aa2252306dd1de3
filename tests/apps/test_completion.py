"""The completion app alone: what it holds while it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import ClassVar

import anyio
import attrs
import pytest

from llmgw.apps.completion import CompletionApp
from llmgw.asgi import BODY, ASGIApp, Header, Message, Receive, Scope, Send
from llmgw.body import Body
from llmgw.errors import ProviderUnavailableError
from llmgw.exchange import Deployment, enter
from llmgw.middlewares.fallback import FallbackMiddleware
from llmgw.middlewares.retry import RetryMiddleware
from llmgw.providers.echo import EchoAnswer, EchoProvider
from llmgw.retrying import RetryPolicy
from llmgw.routing import Candidate
from llmgw.testing import exchange
from llmgw.wire import Call, read_call

PROMPT = "word " * 10_000


async def silent() -> Message:
    """A client that has sent its body and says no more."""
    raise AssertionError("nobody needs to ask")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stream_holds_the_bytes_of_its_request_no_longer(stream: bool) -> None:
    """Once its first event is out: it may go on for minutes; other answers are given at once."""
    call = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": PROMPT}]}
    body = Body(json.dumps(call).encode(), True, False, silent, watched=True)
    asked = body.decode(read_call)
    deployment = Deployment("echo", "m", options=(("chunks", "2"),))
    app = CompletionApp({"openai": EchoProvider()}, resolve=lambda exchange: deployment)
    held: list[int] = []
    answer = b""

    async def send(message: Message) -> None:
        nonlocal answer
        if message["type"] == BODY:
            held.append(len(body.data) + len(asked.fields))
            answer += message["body"]

    _, scope, _, port = enter({"type": "http", "headers": []}, silent, send)
    await app(scope, body, port)

    assert [not size for size in held] == [stream and number > 0 for number in range(len(held))]
    assert len(held) > 2 or not stream
    assert b"word" in answer


class Payload(bytes):
    """It tells when nobody holds it any more."""

    gone = 0

    def __del__(self) -> None:
        Payload.gone += 1


class Weighed(EchoProvider):
    """Notes how many of its payloads are held whenever it is asked for the next."""

    held: ClassVar[list[int]] = []

    async def open(
        self, call: Call, deployment: Deployment, headers: Sequence[Header], due: float
    ) -> EchoAnswer:
        """See Provider."""
        answer = await super().open(call, deployment, headers, due)
        answer.texts = self.noted(answer.texts)
        return answer

    def noted(self, texts: Iterator[bytes]) -> Iterator[bytes]:
        before = Payload.gone
        for number, text in enumerate(texts):
            self.held.append(number + before - Payload.gone)
            yield Payload(text)


async def test_a_stream_that_waits_holds_nothing_that_has_gone_out() -> None:
    """But for the first chunk, which says nothing and waits for the second."""
    Weighed.held.clear()
    call = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "a b c d"}]}
    body = Body(json.dumps(call).encode(), True, False, silent, watched=True)
    app = CompletionApp({"openai": Weighed()}, resolve=lambda exchange: Deployment("echo", "m"))

    async def send(message: Message) -> None:
        pass

    _, scope, _, port = enter({"type": "http", "headers": []}, silent, send)
    await app(scope, body, port)

    assert Weighed.held[:7] == [0, 1, 0, 0, 0, 0, 0]


@attrs.define(eq=False)
class Guard:
    """A layer that looks at a whole answer before it lets it pass, and refuses the first."""

    app: ASGIApp
    asked: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        self.asked += 1
        await self.app(scope, receive, hold)
        if self.asked == 1:
            raise ProviderUnavailableError("refused", provider="guard")
        for message in held:
            await send(message)


@pytest.mark.parametrize("above", ["Retry", "Fallback"])
async def test_a_stream_that_a_layer_holds_and_refuses_can_be_asked_for_again(above: str) -> None:
    """Nothing of it has gone out: the request's bytes are still there."""
    place = Deployment("echo", "m", via="echo")
    guard = Guard(CompletionApp({"echo": EchoProvider()}, resolve=lambda exchange: place))
    candidates = [Candidate(place, "a"), Candidate(place, "b")]
    app: ASGIApp = RetryMiddleware(guard, policy=RetryPolicy(backoff=0))
    if above == "Fallback":
        app = FallbackMiddleware(guard, candidates=lambda exchange: candidates)
    call = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi there"}]}

    with anyio.fail_after(60):
        reply = await exchange(app, json.dumps(call).encode())

    assert (guard.asked, reply.status) == (2, 200)
    assert b"there" in reply.body
