"""Fallback: ask the next deployment when one fails, and leave alone what keeps failing.

Reads    the request body, at most ``max_body`` bytes, which is held; a larger one has one
         deployment. What the app raises, and the status and Retry-After of what it answers.
Writes   ``scope["llmgw.attempt"]`` with the deployment whose turn it is; ``exchange.attempts_left``
         and ``exchange.alternatives``, by which Retry knows what is left; the cooldown's state.
Raises   nothing of its own but NotFoundError when there is no deployment. When all have failed, the
         last response or error goes out unchanged.
Place    above Retry: a retry asks the same deployment again. Below Inference and Deadline: they
         speak of the whole call.
Source   the law of failure (docs/reliability.md): an error says by ``next`` whether another
         deployment may answer. Cooldown and order: cooldown.py, routing.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import anyio
import attrs
from msgspec import Struct, field

from llmgw.asgi import ASGIApp, Message, Receive, Scope, Send
from llmgw.body import Body, read_body
from llmgw.cooldown import Cooldown, MemoryCooldown
from llmgw.errors import (
    GatewayError,
    InvalidRequestError,
    NotFoundError,
    RateLimitError,
    from_status,
)
from llmgw.exchange import ATTEMPT, Attempt, Exchange, enter
from llmgw.gate import Gate
from llmgw.routing import Candidate, Turn, Walk
from llmgw.stack import Place

PLACE = Place(
    below={
        "Inference": "one call, however many deployments it took",
        "Deadline": "one clock bounds all deployments",
        "Cache": "a hit needs no deployment",
    },
    above={"Retry": "each retry would walk the whole chain of deployments again"},
)
ATTEMPTS = 6  # runs over all deployments; DESIGN's contract, retry.attempts_total
MAX_BODY = 10 << 20  # bytes; the gateway's default for limits.max_body_bytes


@attrs.frozen
class FallbackMiddleware:
    """Give each exchange a deployment, and the next one when it fails before its response began.

    ``candidates`` gives an exchange's deployments in the order in which they are to be asked;
    ``attempts`` bounds the runs over all of them.
    """

    app: ASGIApp
    candidates: Callable[[Exchange], Sequence[Candidate]] = attrs.field(kw_only=True)
    cooldown: Cooldown = attrs.field(factory=MemoryCooldown, kw_only=True)
    attempts: int = attrs.field(default=ATTEMPTS, kw_only=True)
    max_body: int = attrs.field(default=MAX_BODY, kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange, scope, receive, send = enter(scope, receive, send)
        walk = Walk(self.candidates(exchange), self.cooldown)
        body = await read_body(receive, limit=self.max_body)
        await body.watch(exchange, partial(self._walk, exchange, scope, body, walk, send))

    async def _walk(
        self, exchange: Exchange, scope: Scope, body: Body, walk: Walk, send: Send
    ) -> None:
        turn = await walk.next()
        if turn is None:
            raise NotFoundError("There is no deployment for this model.", param="model")
        while turn is not None:
            ask = Asking(self.cooldown, turn, send)
            left = self.attempts - exchange.attempts
            exchange.attempts_left = 1 if turn.probe else left
            exchange.alternatives = turn.left if body.complete and left > 1 else 0
            before = exchange.attempts
            way = ask if turn.probe else send
            gate = Gate(way, body, not exchange.alternatives, ask.begin)
            attempt = Attempt(deployment=turn.candidate.deployment)
            turn.candidate.load.running += 1
            try:
                error = await gate.run(self.app, {**scope, ATTEMPT: attempt})
                verdict = error or verdict_on(gate)
                if not exchange.left:
                    await ask.tell(verdict, max(1, exchange.attempts - before))
            finally:
                turn.candidate.load.running -= 1
                if turn.probe:
                    await ask.give_back()
            again = verdict is not None and verdict.next and not gate.begun and not exchange.left
            left = self.attempts - exchange.attempts
            turn = await walk.next() if again and body.complete and left > 0 else None
            if turn is None and error is not None:
                raise error
            if turn is None and gate.held:
                await gate.release()


def verdict_on(gate: Gate) -> GatewayError | None:
    """What a held response says; None when the response was let through."""
    if not gate.held or gate.status is None:
        return None
    return from_status(gate.status, provider="app", retry_after=gate.retry_after)


class Asking(Struct, eq=False):
    """One turn: what is learnt of the deployment, for its load and for the cooldown."""

    cooldown: Cooldown
    turn: Turn
    send: Send
    began_at: float = field(default_factory=time.monotonic)
    begun: bool = False
    told: bool = False

    async def __call__(self, message: Message) -> None:
        """Be a probe's ``send``: with its first message it has succeeded, however long it is."""
        if not self.told:
            await self.tell(None, 1)
        await self.send(message)

    def begin(self) -> None:
        """The response begins."""
        self.begun = True
        self._observe()

    async def give_back(self) -> None:
        """Give back a probe that told nothing: the client left."""
        if not self.told:
            with anyio.CancelScope(shield=True):
                await self.cooldown.release(self.turn.candidate.id)

    async def tell(self, verdict: GatewayError | None, runs: int) -> None:
        """How it ended, after ``runs``; what the request is to blame for says nothing."""
        if verdict is None:
            self.told = True
            await self.cooldown.success(self.turn.candidate.id, probe=self.turn.probe)
        elif not isinstance(verdict, InvalidRequestError):
            self.told = True
            if not self.begun:
                self._observe()
            wait = verdict.retry_after if isinstance(verdict, RateLimitError) else None
            await self.cooldown.failure(self.turn.candidate.id, wait, runs)

    def _observe(self) -> None:
        now = time.monotonic()
        self.turn.candidate.load.observe(now - self.began_at, now)
