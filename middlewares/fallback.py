"""Fallback: ask the next deployment when one fails, and leave alone what keeps failing.

Reads    the request body, at most ``max_body`` bytes, which is held; a larger one has one
         deployment. What the app raises, and the status and Retry-After of what it answers.
Writes   ``scope["llmgw.attempt"]`` with the deployment whose turn it is; ``exchange.attempts_left``
         and ``exchange.alternatives``, by which Retry knows what is left; the cooldown's state. It
         takes ``exchange.answer`` back when another deployment is asked.
Raises   NotFoundError when there is no deployment; RateLimitError when all are limited, and for
         longer than is waited. When all have failed, the last response or error goes out unchanged.
Place    above Retry: a retry asks the same deployment again. Below Inference and Deadline: they
         speak of the whole call.
Source   the law of failure (docs/reliability.md): an error says by ``next`` whether another
         deployment may answer. Which one, and after which wait: walk.py, cooldown.py, routing.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs
from msgspec import Struct

from llmgw.asgi import ASGIApp, Message, Receive, Scope, Send
from llmgw.body import Body, read_body
from llmgw.cooldown import Cooldown, MemoryCooldown
from llmgw.errors import GatewayError, from_status, untrace
from llmgw.exchange import ATTEMPT, EXCHANGE, Attempt, Exchange, outermost
from llmgw.gate import Gate, ours
from llmgw.routing import Candidate
from llmgw.stack import Place
from llmgw.walk import Turn, Waits, Walk

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


def verdict_on(gate: Gate) -> GatewayError | None:
    """What a held response says; None when the response was let through."""
    if not gate.held or gate.status is None:
        return None
    return from_status(gate.status, provider="app", retry_after=gate.retry_after)


class Begun(Struct, eq=False):
    """A ``send`` that tells the cooldown of a success by its first message, not by its last."""

    walk: Walk
    turn: Turn
    send: Send

    async def __call__(self, message: Message) -> None:
        """Send the message."""
        await self.walk.answered(self.turn)
        await self.send(message)


@attrs.frozen
class FallbackMiddleware:
    """Give each exchange a deployment, and the next one when it fails before its response began.

    ``candidates`` gives an exchange's deployments in the order in which they are to be asked;
    ``attempts`` bounds the runs over all of them; ``waits`` how long is waited for one that is
    limited when there is no other.
    """

    app: ASGIApp
    candidates: Callable[[Exchange], Sequence[Candidate]] = attrs.field(kw_only=True)
    cooldown: Cooldown = attrs.field(factory=MemoryCooldown, kw_only=True)
    waits: Waits = attrs.field(factory=Waits, kw_only=True)
    attempts: int = attrs.field(default=ATTEMPTS, kw_only=True)
    max_body: int = attrs.field(default=MAX_BODY, kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if EXCHANGE not in scope:  # it is the outermost, or this is no HTTP
            return await outermost(self, self.app, scope, receive, send)
        exchange: Exchange = scope[EXCHANGE]
        if not isinstance(receive, Body) or (receive.complete and not receive.watched):
            # nobody above holds the body and watches the client: do so, and come again
            body = await read_body(receive, limit=self.max_body)
            return await body.watch(exchange, partial(self, scope, body, send))
        outer = scope.get(ATTEMPT)  # of a Fallback above
        walk = Walk(self.candidates(exchange), self.cooldown, self.waits)
        turn = walk.healthy() or await walk.next(exchange.remaining)
        if turn is None:
            raise walk.refusal()
        while True:
            candidate, left = turn.candidate, self.attempts - exchange.attempts
            more = receive.complete and left > 1
            exchange.attempts_left = 1 if turn.single else left
            exchange.alternatives = turn.left if more else 0
            known = self.cooldown.healthy(candidate.id)  # that a healthy one answers is no news
            gate = Gate(send if known else Begun(walk, turn, send), receive, more, turn.observe)
            # in place, for as long as the run takes: a copy would be 0.7 KB of a stream that waits
            scope[ATTEMPT] = Attempt(deployment=candidate.deployment)
            error = None
            candidate.load.running += 1
            try:
                try:
                    await self.app(scope, receive.replay(), gate)
                except Exception as exc:
                    error = ours(exc)
                verdict = error if gate.begun else error or verdict_on(gate)
                if verdict is not None and not exchange.left:
                    if not gate.begun:
                        turn.observe()
                    await walk.failed(turn, verdict)
                elif verdict is None and not known:
                    await walk.answered(turn)  # it may have sent nothing
            finally:
                scope[ATTEMPT] = outer
                candidate.load.running -= 1
                await walk.release(turn)
            if verdict is None or not verdict.next or gate.begun or exchange.left:
                break
            again = receive.complete and exchange.attempts < self.attempts
            turn = await walk.next(exchange.remaining) if again else None
            if turn is None:
                break
            exchange.answer = None  # it is not accepted after all
            untrace(verdict)  # the Attempt may hold it
        if error is not None:
            try:
                raise error
            finally:
                del error, verdict  # its traceback holds this frame
        if gate.held:
            await gate.release()
