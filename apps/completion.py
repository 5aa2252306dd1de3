"""The completion app: one attempt at one deployment. The innermost app of the stack.

It begins its response only together with the first content, relays, and ends; whatever goes wrong
is raised. Retry, Fallback and ErrorMap, above, make of it what the law says.

Reads    the request body; the Attempt's deployment, else resolves the model's name.
Writes   its own Attempt; ``exchange.model``, ``stream``, ``answer`` and ``attempts`` when no layer
         above does; the response header ``x-provider``.
Raises   GatewayError.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial

import attrs

from llmgw import sse, telemetry
from llmgw.asgi import BODY, START, Receive, Scope, Send
from llmgw.body import Body, read_whole_body, replayed
from llmgw.errors import GatewayError
from llmgw.exchange import EXCHANGE, Deployment, Exchange, attempt_of, enter
from llmgw.providers import keys
from llmgw.providers.base import Clocks, Provider, Run
from llmgw.relay import Relay
from llmgw.wire import DONE, read_call

MAX_BODY = 10 << 20  # bytes; DESIGN 8
JSON = (b"content-type", b"application/json")


def by_prefix(exchange: Exchange) -> Deployment:
    """By the model's prefix and the environment. Raises NotFoundError, AuthError."""
    return keys.resolve(exchange.model or "", os.environ)


@attrs.frozen
class CompletionApp:
    """Answer ``POST /v1/chat/completions`` by one provider.

    ``resolve`` gives the deployment by ``exchange.model`` where no layer above has chosen one.
    """

    providers: Mapping[str, Provider]  # by Deployment.via
    resolve: Callable[[Exchange], Deployment] = attrs.field(default=by_prefix, kw_only=True)
    clocks: Clocks = attrs.field(factory=Clocks, kw_only=True)
    max_body: int = attrs.field(default=MAX_BODY, kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if EXCHANGE not in scope:  # it has no layer above
            _, scope, receive, send = enter(scope, receive, send)
        exchange: Exchange = scope[EXCHANGE]
        limit = self.max_body
        body = replayed(receive, limit) or await read_whole_body(receive, limit=limit)
        if not body.complete:
            exchange.left = True
            return
        if not body.watched:  # nobody above watches the client: do so, and come again
            return await body.watch(exchange, partial(self, scope, body, send))
        call, attempt = body.decode(read_call), attempt_of(scope)
        exchange.model, exchange.stream = call.model, call.stream
        if exchange.attempts < attempt.number:
            exchange.attempts = attempt.number
        deployment = attempt.deployment or self.resolve(exchange)
        attempt.deployment, attempt.provider = deployment, deployment.provider
        exchange.headers.update(deployment.shown)
        relay = Relay(call, deployment.provider)
        run = Run(
            self.providers[deployment.via],
            call,
            deployment,
            self.clocks,
            relay,
            number=attempt.number,
            failover=exchange.alternatives > 0,
        )
        headers = telemetry.inject()
        if exchange.via is not None:
            headers = [*headers, (b"via", exchange.via)]
        try:
            first = await run.begin(headers)
            attempt.first_token_at, attempt.status = time.perf_counter(), 200
            exchange.answer = exchange.answer or attempt
            if call.stream:
                await stream(exchange, body, run, first, send)
            else:
                length = (b"content-length", b"%d" % len(first[0]))
                headers = [JSON, length, *run.headers]
                await send({"type": START, "status": 200, "headers": headers})
                await send({"type": BODY, "body": first[0]})
        except GatewayError as exc:
            attempt.error = exc
            raise
        finally:
            relay.report(attempt)
            if run.resent:
                attempt.resent = True
                exchange.attempts += 1
            if not run.release():
                await run.aclose()


async def stream(exchange: Exchange, body: Body, run: Run, first: list[bytes], send: Send) -> None:
    """Send the answer's payloads as events, as they come.

    It may go on for minutes, and a prompt may be a megabyte: so the request's bytes are forgotten,
    once the first event has gone out to the client. Then no layer above can ask again.
    """
    await send({"type": START, "status": 200, "headers": [*sse.HEADERS, *run.headers]})
    before = exchange.sent
    await send({"type": BODY, "body": sse.join(first), "more_body": True})
    if exchange.sent > before:
        body.forget()
        run.call.forget()
    first.clear()  # the frame above would hold what has gone out as long as the stream
    while given := await run.more():
        await send({"type": BODY, "body": sse.join(given), "more_body": True})
        given.clear()  # this frame would, until more has come
    await send({"type": BODY, "body": sse.join([DONE])})
