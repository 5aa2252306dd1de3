"""Gate: a ``send`` for one run of an app, which holds a response that may be rejected.

Used by the layers that run an app more than once (Retry, Fallback). What a run has sent is either
let through, and then nothing can be run again, or dropped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from llmgw.asgi import BODY, START, Message, Send, ends
from llmgw.body import Body
from llmgw.errors import GatewayError, lone
from llmgw.retry_after import retry_after_of

# Of an app that raises nothing of ours: statuses that are made on the way to the model.
# openai-python e43b4224, _should_retry, has every 5xx and 409 besides.
STATUSES = frozenset({408, 429, 502, 503, 504})
HELD = 64 << 10  # bytes of a rejected response that are kept; a larger one is let through


class Gate(Struct, eq=False):
    """A ``send`` that lets a response through, or holds it as one to be rejected.

    What is let through goes on without a coroutine of its own, which each message would pay for. A
    layer whose ``send`` is a Gate of the same body runs the app behind that one, not a second.
    """

    send: Send
    body: Body
    more: bool = False  # a further run may come: what is to be rejected is held
    on_begin: Callable[[], None] | None = None  # called when the response is let through
    held: list[Message] = []  # msgspec gives each Gate its own
    size: int = 0
    begun: bool = False
    status: int | None = None
    retry_after: float | None = None

    def __call__(self, message: Message) -> Awaitable[None]:
        """Send the message or hold it."""
        if self.begun:
            if message["type"] == BODY and not message.get("more_body", False):
                return self._end(message)
        elif message["type"] == START and not (self.more and message["status"] in STATUSES):
            self.status = message["status"]
            self._begin()
        else:
            return self._hold(message)
        return self.send(message)

    async def release(self) -> None:
        """Let what is held begin."""
        self._begin()
        held, self.held = self.held, []
        for message in held:
            await self.send(message)

    def drop(self) -> None:
        """Forget what is held: another run takes its place, or an error."""
        self.held, self.size, self.status, self.retry_after = [], 0, None, None

    def _begin(self) -> None:
        self.begun = True
        if self.on_begin is not None:
            self.on_begin()

    async def _hold(self, message: Message) -> None:
        if message["type"] == START:
            self.status = message["status"]
            self.retry_after = retry_after_of(message.get("headers", ()))
        self.held.append(message)
        self.size += len(message.get("body", b""))
        if self.size > HELD:
            await self.release()
        if ends(message):
            self.body.end()

    async def _end(self, message: Message) -> None:
        await self.send(message)
        self.body.end()  # an app that listens until the client leaves would never return


def ours(exc: Exception) -> GatewayError:
    """The error of ours that a run of the app raised; any other is raised on."""
    error = lone(exc)
    if isinstance(error, GatewayError):
        return error
    raise exc
