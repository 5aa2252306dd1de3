"""Retry: send an exchange to the app again while its response has not begun.

Reads    the request body, at most ``max_body`` bytes, which is held; a larger one is passed through
         and tried once. What the app raises, and the status and Retry-After of what it answers.
         What Fallback and Deadline left: attempts, alternatives, time.
Writes   ``scope["llmgw.attempt"]``, a fresh Attempt for each run; ``exchange.attempts``;
         ``exchange.answer``, the run that was accepted; of an app that knows no Attempt, its status
         and error.
Raises   nothing of its own. When attempts run out, the last response or error goes out unchanged.
Place    below Fallback: a retry asks the same deployment again, a fallback the next. Below
         Inference and Deadline: they speak of the whole call.
Source   full jitter and the budget: retrying.py. Which statuses are repeated: gate.py.
"""

from __future__ import annotations

from functools import partial

import anyio
import attrs

from llmgw.asgi import ASGIApp, Receive, Scope, Send
from llmgw.body import Body, read_body
from llmgw.errors import GatewayError, untrace
from llmgw.exchange import ATTEMPT, EXCHANGE, Attempt, Exchange, outermost
from llmgw.gate import Gate, ours
from llmgw.retrying import RetryBudget, RetryPolicy
from llmgw.stack import Place

PLACE = Place(
    below={
        "Fallback": "each retry would walk the whole chain of fallbacks again",
        "Deadline": "one clock bounds all attempts",
        "Inference": "one call, however many attempts it took",
        "Cache": "a hit needs no attempt",
    },
)
MAX_BODY = 10 << 20  # bytes; the gateway's default for limits.max_body_bytes


@attrs.frozen
class RetryMiddleware:
    """Repeat an exchange until a run of the app is accepted, or ``policy`` says that it is enough.

    A POST is repeated too: a completion has no effect but its answer. ``budget`` bounds all repeats
    of this layer together; None does not.
    """

    app: ASGIApp
    policy: RetryPolicy = attrs.field(factory=RetryPolicy, kw_only=True)
    budget: RetryBudget | None = attrs.field(factory=RetryBudget, kw_only=True)
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
        attempts = self.policy.attempts if receive.complete else 1
        if exchange.attempts_left and exchange.attempts_left < attempts:
            attempts = exchange.attempts_left
        if self.budget is not None:
            self.budget.deposit()
        attempt: Attempt | None = scope.get(ATTEMPT)  # Fallback has made it; it is fresh
        if attempt is None:
            attempt = Attempt()
            scope = {**scope, ATTEMPT: attempt}
        deployment = attempt.deployment
        # the Gate of Fallback is ours too: a message need not pass two
        gate = send if isinstance(send, Gate) and send.body is receive else Gate(send, receive)
        more_above = gate.more
        number = 0
        while True:
            number += 1
            exchange.attempts += 1
            gate.more = more_above or number < attempts
            error = None
            try:
                await self.app(scope, receive.replay(), gate)
            except Exception as exc:
                error = ours(exc)
            number += attempt.resent
            if gate.begun or number >= attempts or exchange.left:
                break
            wait = self._wait(number, error, gate, exchange)
            if wait is None:
                break
            if error is not None:
                untrace(error)  # the Attempt holds it
            await anyio.sleep(wait)
            gate.drop()
            attempt = Attempt(number + 1, deployment)
            scope = {**scope, ATTEMPT: attempt}
        attempt.status = attempt.status or gate.status
        if error is not None:
            attempt.error = attempt.error or error
            gate.drop()
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        exchange.answer = attempt
        if gate.held and not more_above:
            await gate.release()

    def _wait(
        self, number: int, error: GatewayError | None, gate: Gate, exchange: Exchange
    ) -> float | None:
        """Seconds until the next run; None: there is none."""
        status, retry_after = gate.status, gate.retry_after
        if error is not None:
            status, retry_after = error.status, error.retry_after
        if retry_after is not None and exchange.attempts_left is not None:
            return None  # Fallback limits the deployment for all requests, and may wait
        if status == 429 and exchange.alternatives:
            return None  # another deployment has limits of its own
        if error is not None:
            wait = self.policy.wait_after(number, error)
        else:
            wait = self.policy.wait(number, gate.retry_after) if gate.held else None
        late = wait is not None and exchange.remaining() <= wait
        if wait is None or late or (self.budget is not None and not self.budget.withdraw()):
            return None
        return wait
