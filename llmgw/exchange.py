"""Exchange and Attempt: what one request, and one run of it, learn on their way through the stack.

They are the only mutable things that layers share. Every field has one writer, named in its
comment; readers take None for "not known". Below Retry one writes only one's own Attempt.

What has gone out to the client is noted once, at the outermost layer's ``send`` (``Port``): a layer
that wraps ``send`` only to look would cost each message 0.4 us. What is made for each request is a
msgspec Struct, which is made in C: an attrs class of 18 fields takes 0.7 us (ADR 0012).
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Awaitable, Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import attrs
from msgspec import Struct, field

from llmgw._concurrency.block import Block, as_coroutine, resume
from llmgw.asgi import BODY, START, ASGIApp, Message, Receive, Scope, Send, find_header, set_headers
from llmgw.portal import on_asyncio

if TYPE_CHECKING:
    from llmgw.errors import GatewayError

EXCHANGE, ATTEMPT = "llmgw.exchange", "llmgw.attempt"  # the only two scope keys of the toolkit
_ENDED = object()  # what ``next`` gives of what has ended: StopIteration would take 0.6 us more
LEFT = 499  # nginx's status for a client that left before its response was complete

# Ids need to differ, not to be secret: uuid4 takes 2.5 us, this 0.3. Not the random module's own
# generator, which the host application may have seeded.
_random = random.Random()
if hasattr(os, "register_at_fork"):  # not on Windows; else forked workers would make the same ids
    os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """A random id of 32 hexadecimal digits."""
    return f"{_random.getrandbits(128):032x}"


class Usage(Struct, frozen=True):
    """Tokens of one answer, in OpenAI's words; ``estimated`` when the upstream told none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0  # part of prompt_tokens
    reasoning_tokens: int = 0  # part of completion_tokens
    estimated: bool = False


def shown_of(deployment: Deployment) -> Mapping[bytes, bytes]:
    """The response headers by which a client sees who answered."""
    found = {b"x-provider": deployment.provider, b"x-model": deployment.name}
    return {name: value.encode("ascii", "replace") for name, value in found.items()}


@attrs.frozen
class Deployment:
    """One place that can serve a model.

    ``model`` is the name there, without the provider's prefix. ``options`` are further arguments
    that its provider understands (an Azure api_version). The key is never shown by ``repr``.
    """

    provider: str
    model: str
    api_base: str | None = None
    api_key: str | None = attrs.field(default=None, repr=False)
    name: str = attrs.field(default="", kw_only=True)  # as the config spells it: "openai/gpt-4o"
    via: str = attrs.field(default="openai", kw_only=True)  # or litellm, echo: the provider class
    weight: float = attrs.field(default=1, kw_only=True)
    include_usage: bool = attrs.field(default=True, kw_only=True)  # understands stream_options
    default_temperature: float | None = attrs.field(default=0.7, kw_only=True)  # None: send none
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), kw_only=True, repr=False)
    options: tuple[tuple[str, str], ...] = attrs.field(default=(), kw_only=True)
    shown: Mapping[bytes, bytes] = attrs.field(
        default=attrs.Factory(shown_of, takes_self=True), init=False, repr=False, eq=False
    )


class Attempt(Struct, eq=False):
    """One run of the app inside an exchange."""

    number: int = 1  # Retry; from 1: requests that this deployment was sent before it, and this
    deployment: Deployment | None = None  # Route / Fallback, else the completion app
    provider: str | None = None  # the completion app: OTel gen_ai.provider.name
    model: str | None = None  # the completion app: what answered, gen_ai.response.model
    response_id: str | None = None  # the completion app
    status: int | None = None  # the completion app; of a foreign app, Retry
    error: GatewayError | None = None  # the completion app; of a foreign app, Retry
    first_token_at: float | None = None  # the completion app; time.perf_counter()
    usage: Usage | None = None  # the completion app
    finish_reasons: tuple[str, ...] = ()  # the completion app
    resent: bool = False  # the completion app: sent twice, the first time by a connection that died


class Exchange(Struct, eq=False):
    """One request and its response."""

    request_id: str | None = None  # RequestID; may be the client's
    started_at: float = field(default_factory=time.perf_counter)  # whoever makes the Exchange
    path: str | None = None  # the gateway's table: the route's template, never raw
    key: str | None = None  # Auth: the name of the client's key
    model: str | None = None  # Inference, else the completion app: as the client asked
    stream: bool = False  # Inference, else the completion app
    answer: Attempt | None = None  # whoever accepts a run: Retry, Fallback, the completion app
    attempts: int = 0  # Retry, the completion app: requests that were sent upstream so far
    attempts_left: int | None = None  # Fallback: how many runs this deployment may have
    alternatives: int = 0  # Fallback: deployments that may be asked after this one
    via: bytes | None = None  # LoopGuard: the header by which a loop is known, to be sent upstream
    deadline: float | None = None  # Deadline, Port: when all must be done, time.monotonic()
    error: GatewayError | None = None  # ErrorMap: what went wrong, as the client was told
    headers: dict[bytes, bytes] = {}  # any layer, own names
    status: int | None = None  # Port: that the client got, once it has begun
    content_type: bytes | None = None  # Port: of the response, once it has begun
    sent: int = 0  # Port: bytes of the body that have gone out
    tail: bytes = b""  # Port: the last two of them; all of a piece: 0.3 KB a stream that waits
    ended: bool = False  # Port: the response is complete
    left: bool = False  # Port, Body.watch: the client left before the end
    send_s: float = math.inf  # Admission: seconds that a message may wait for the client to read
    block: Block | None = None  # Drain, else the client watch: what ends when either says so
    clock: Block | None = None  # Deadline: stands still while a message waits
    known_id: str = ""  # ``id`` itself: once somebody has asked

    @property
    def id(self) -> str:
        """Ours, unique; made when somebody asks."""
        self.known_id = self.known_id or new_id()
        return self.known_id

    def remaining(self) -> float:
        """Seconds until the deadline; without one, for ever."""
        return math.inf if self.deadline is None else self.deadline - time.monotonic()

    @property
    def open_stream(self) -> bool:
        """Whether an event stream has begun and is between two events."""
        return self.tail in (b"", b"\n\n") and (self.content_type or b"").startswith(
            b"text/event-stream"
        )

    def final_status(self, error: BaseException | None) -> int:
        """The status for the books: 499 the client left, 500 the app failed, else what was sent."""
        if self.ended:
            return self.status or 500
        if self.left or (error is not None and not isinstance(error, Exception)):
            return LEFT
        return 500 if error is not None else self.status or 500


class Port(Struct, eq=False):
    """The client's side of an exchange: its ``receive`` and ``send``, and who notes what passes."""

    exchange: Exchange
    inner_receive: Receive
    inner_send: Send
    on_asyncio: bool = field(default_factory=on_asyncio)

    async def receive(self) -> Message:
        """Receive a message; note a disconnect before the end."""
        message = await self.inner_receive()
        if message["type"] == "http.disconnect" and not self.exchange.ended:
            self.exchange.left = True
        return message

    async def send(self, message: Message) -> None:
        """Send a message; add the headers that layers wish for, note what went out.

        Raises OSError, which says that the client left.
        """
        exchange, kind, ended = self.exchange, message["type"], False
        if kind == BODY:
            if body := message.get("body"):
                exchange.sent += len(body)
                exchange.tail = body[-2:]
            ended = not message.get("more_body", False)
        elif kind == START:
            headers = message.get("headers", ())
            if exchange.headers:
                headers = set_headers(headers, exchange.headers)
                message = {**message, "headers": headers}
                exchange.headers = {}
            exchange.status = message["status"]
            exchange.content_type = find_header(headers, b"content-type")
        try:
            sending: Any = self.inner_send(message)
            if sending.__class__ is not CoroutineType:  # mostly it is one
                sending = as_coroutine(sending)
            if not self.on_asyncio:  # there a bound is a scope, which must be there before
                await attended(sending, exchange)
            else:
                signal = next(sending.__await__(), _ENDED)
                if signal is not _ENDED:  # mostly it does not wait
                    await attended(resume(sending, signal), exchange)
        except OSError:
            exchange.left = True
            raise
        if ended:  # trailers may follow the end
            exchange.ended = True


async def attended(sending: Awaitable[None], exchange: Exchange) -> None:
    """Wait for a ``send`` that waits; meanwhile the exchange's clock stands still.

    Raises OSError, as for a broken connection, when nobody reads within ``exchange.send_s``.
    """
    clock, began = exchange.clock, time.monotonic()
    left = math.inf if clock is None else clock.stop()
    try:
        if exchange.send_s == math.inf:
            return await sending
        with Block(exchange.send_s):
            return await sending
        raise ConnectionAbortedError(f"the client read nothing for {exchange.send_s:g} s")
    finally:
        if clock is not None:
            clock.start(left)
        if exchange.deadline is not None:
            exchange.deadline += time.monotonic() - began


def inner_receive(receive: Receive) -> Receive:
    """What a Port's ``receive`` calls, for who notes a disconnect himself; else the same.

    A coroutine less in each stream that waits: 0.3 KB.
    """
    port = getattr(receive, "__self__", None)
    return port.inner_receive if isinstance(port, Port) else receive


def enter(scope: Scope, receive: Receive, send: Send) -> tuple[Exchange, Scope, Receive, Send]:
    """The Exchange of ``scope``, with the scope, receive and send to hand on; else a new one.

    Only the layer that makes the Exchange has a Port.
    """
    if EXCHANGE in scope:
        return scope[EXCHANGE], scope, receive, send
    exchange = Exchange()
    port = Port(exchange, receive, send)
    return exchange, {**scope, EXCHANGE: exchange}, port.receive, port.send


async def outermost(
    layer: ASGIApp, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Run a layer that was given no Exchange: with a new one; past it, its ``app``, if no HTTP.

    So a layer within begins with one look-up: ``enter`` takes 20 bytecodes more, six times.
    """
    if scope["type"] != "http":
        return await app(scope, receive, send)
    _, scope, receive, send = enter(scope, receive, send)
    await layer(scope, receive, send)


def attempt_of(scope: Scope) -> Attempt:
    """The Attempt that Retry made for this run; used alone, a fresh one."""
    found: Attempt | None = scope.get(ATTEMPT)
    return found or Attempt()
