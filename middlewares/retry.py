"""Retry: send an exchange to the app again while its response has not begun.

Reads    the request body, at most ``max_body`` bytes, which is held; a larger one is passed through
         and tried once. What the app raises, and the status and Retry-After of what it answers.
Writes   ``scope["llmgw.attempt"]``, a fresh Attempt for each run; ``exchange.attempts``;
         ``exchange.answer``, the run that was accepted; of an app that knows no Attempt, its status
         and error.
Raises   nothing of its own. When attempts run out, the last response or error goes out unchanged.
Place    below Fallback: a retry asks the same deployment again, a fallback the next. Below
         Inference and Deadline: they speak of the whole call.
Source   full jitter: retrying.py. STATUSES: openai-python e43b4224, _should_retry, narrowed from
         every 5xx to the three that are made on the way to the model.
"""

from __future__ import annotations

import anyio
import attrs

from llmgw.asgi import START, ASGIApp, Message, Receive, Scope, Send, ends, find_header
from llmgw.body import Body, read_body
from llmgw.errors import GatewayError, lone, parse_retry_after
from llmgw.exchange import ATTEMPT, Attempt, Exchange, attempt_of, enter
from llmgw.retrying import RetryPolicy
from llmgw.stack import Place

PLACE = Place(
    below={
        "Fallback": "each retry would walk the whole chain of fallbacks again",
        "Deadline": "one clock bounds all attempts",
        "Inference": "one call, however many attempts it took",
        "Cache": "a hit needs no attempt",
    },
)
STATUSES = frozenset({408, 429, 502, 503, 504})
MAX_BODY = 10 << 20  # bytes; the gateway's default for limits.max_body_bytes
HELD = 64 << 10  # bytes of a rejected response that are kept; a larger one is let through


@attrs.define
class Gate:
    """A ``send`` that lets a response through, or holds it as one to be rejected."""

    send: Send
    body: Body
    last: bool  # no further attempt: nothing is held
    held: list[Message] = attrs.field(factory=list[Message])
    size: int = 0
    begun: bool = False
    status: int | None = None
    retry_after: float | None = None

    async def __call__(self, message: Message) -> None:
        """Send the message or hold it."""
        if message["type"] == START:
            self.status = message["status"]
            self.retry_after = parse_retry_after(
                find_header(message.get("headers", ()), b"retry-after")
            )
        if self.begun:
            await self.send(message)
        else:
            self.held.append(message)
            self.size += len(message.get("body", b""))
            if self.last or self.status not in STATUSES or self.size > HELD:
                await self.release()
        if ends(message):
            self.body.end()  # an app that listens until the client leaves would never return

    async def release(self) -> None:
        """Let the response begin."""
        self.begun = True
        held, self.held = self.held, []
        for message in held:
            await self.send(message)


@attrs.frozen
class RetryMiddleware:
    """Repeat an exchange until a run of the app is accepted, or ``policy`` says that it is enough.

    A POST is repeated too: a completion has no effect but its answer.
    """

    app: ASGIApp
    policy: RetryPolicy = attrs.field(factory=RetryPolicy, kw_only=True)
    max_body: int = attrs.field(default=MAX_BODY, kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange, scope, send = enter(scope, send)
        body = await read_body(receive, limit=self.max_body)
        async with body.watch(exchange, send) as watched:
            await self._repeat(exchange, scope, body, watched)

    async def _repeat(self, exchange: Exchange, scope: Scope, body: Body, send: Send) -> None:
        deployment = attempt_of(scope).deployment
        attempts = self.policy.attempts if body.complete else 1
        number = 0
        while True:
            number += 1
            exchange.attempts += 1
            attempt, gate = Attempt(number, deployment), Gate(send, body, number == attempts)
            error = await self._run({**scope, ATTEMPT: attempt}, body.replay(), gate)
            wait = None if gate.begun or exchange.left else self._wait(number, error, gate)
            if wait is None:
                break
            await anyio.sleep(wait)
        attempt.status, attempt.error = attempt.status or gate.status, attempt.error or error
        if error is not None:
            raise error
        exchange.answer = attempt
        if gate.held:
            await gate.release()

    async def _run(self, scope: Scope, body: Body, gate: Gate) -> GatewayError | None:
        try:
            await self.app(scope, body, gate)
        except Exception as exc:
            error = lone(exc)
            if not isinstance(error, GatewayError):
                raise
            return error
        return None

    def _wait(self, number: int, error: GatewayError | None, gate: Gate) -> float | None:
        if error is not None:
            return self.policy.wait_after(number, error)
        return self.policy.wait(number, gate.retry_after) if gate.held else None
