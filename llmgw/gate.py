"""Gate: a ``send`` for one run of an app, which holds a response that may be rejected.

Used by the layers that run an app more than once (Retry, Fallback). What a run has sent is either
let through, and then nothing can be run again, or dropped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct, field

from llmgw.asgi import BODY, START, ASGIApp, Message, Scope, Send, ends, find_header
from llmgw.body import Body
from llmgw.errors import GatewayError, lone, parse_retry_after

# Of an app that raises nothing of ours: statuses that are made on the way to the model.
# openai-python e43b4224, _should_retry, has every 5xx and 409 besides.
STATUSES = frozenset({408, 429, 502, 503, 504})
HELD = 64 << 10  # bytes of a rejected response that are kept; a larger one is let through


class Gate(Struct, eq=False):
    """A ``send`` that lets a response through, or holds it as one to be rejected.

    What is let through goes on without a coroutine of its own, which each message would pay for.
    """

    send: Send
    body: Body
    last: bool  # no further run: nothing is held
    on_begin: Callable[[], None] | None = None  # called when the response is let through
    held: list[Message] = field(default_factory=list[Message])
    size: int = 0
    begun: bool = False
    status: int | None = None
    retry_after: float | None = None

    def __call__(self, message: Message) -> Awaitable[None]:
        """Send the message or hold it."""
        if not self.begun:
            if message["type"] != START or not (self.last or message["status"] not in STATUSES):
                return self._hold(message)
            self.status = message["status"]
            self._begin()
        elif message["type"] == BODY and not message.get("more_body", False):
            return self._end(message)
        return self.send(message)

    async def release(self) -> None:
        """Let what is held begin."""
        self._begin()
        held, self.held = self.held, []
        for message in held:
            await self.send(message)

    async def run(self, app: ASGIApp, scope: Scope) -> GatewayError | None:
        """Run the app once; the error that it raised, if it is one of ours."""
        try:
            await app(scope, self.body.replay(), self)
        except Exception as exc:
            error = lone(exc)
            if not isinstance(error, GatewayError):
                raise
            return error
        return None

    def _begin(self) -> None:
        self.begun = True
        if self.on_begin is not None:
            self.on_begin()

    async def _hold(self, message: Message) -> None:
        if message["type"] == START:
            self.status = message["status"]
            found = find_header(message.get("headers", ()), b"retry-after")
            self.retry_after = parse_retry_after(found)
        self.held.append(message)
        self.size += len(message.get("body", b""))
        if self.size > HELD:
            await self.release()
        if ends(message):
            self.body.end()

    async def _end(self, message: Message) -> None:
        await self.send(message)
        self.body.end()  # an app that listens until the client leaves would never return
