"""Exchange and Attempt: what one request, and one run of it, learn on their way through the stack.

They are the only mutable things that layers share. Every field has one writer, named in its
comment; readers take None for "not known". Below Retry one writes only one's own Attempt.
"""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING

import attrs

from llmgw.asgi import START, Message, Scope, Send, set_headers

if TYPE_CHECKING:
    from llmgw.errors import GatewayError

EXCHANGE, ATTEMPT = "llmgw.exchange", "llmgw.attempt"  # the only two scope keys of the toolkit

_random = random.Random()  # ids need to differ, not to be secret: 0.3 us where uuid4 takes 2.5


def new_id() -> str:
    """A random id of 32 hexadecimal digits."""
    return f"{_random.getrandbits(128):032x}"


@attrs.frozen
class Usage:
    """Tokens of one answer, in OpenAI's words; ``estimated`` when the upstream told none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0  # part of prompt_tokens
    reasoning_tokens: int = 0  # part of completion_tokens
    estimated: bool = False


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


@attrs.define
class Attempt:
    """One run of the app inside an exchange."""

    number: int = 1  # Retry; from 1
    deployment: Deployment | None = None  # Route / Fallback, else the completion app
    provider: str | None = None  # the completion app: OTel gen_ai.provider.name
    model: str | None = None  # the completion app: what answered, gen_ai.response.model
    response_id: str | None = None  # the completion app
    status: int | None = None  # the completion app; of a foreign app, Retry
    error: GatewayError | None = None  # the completion app; of a foreign app, Retry
    first_token_at: float | None = None  # the completion app; time.perf_counter()
    usage: Usage | None = None  # the completion app
    finish_reasons: tuple[str, ...] = ()  # the completion app


@attrs.define
class Exchange:
    """One request and its response."""

    id: str = attrs.field(factory=new_id)  # whoever makes the Exchange; ours, unique
    request_id: str | None = None  # RequestID; may be the client's
    started_at: float = attrs.field(factory=time.perf_counter)  # whoever makes the Exchange
    path: str | None = None  # the gateway's table: the route's template, never raw
    key: str | None = None  # Auth: the name of the client's key
    model: str | None = None  # Inference, else the completion app: as the client asked
    stream: bool = False  # Inference, else the completion app
    answer: Attempt | None = None  # whoever accepts a run: Retry, else the completion app
    attempts: int = 0  # Retry, else the completion app: runs so far
    attempts_left: int | None = None  # Fallback: how many runs this deployment may have
    alternatives: int = 0  # Fallback: deployments that may be asked after this one
    deadline: float | None = None  # Deadline: when the whole must be done, time.monotonic()
    error: GatewayError | None = None  # ErrorMap: what went wrong, as the client was told
    left: bool = False  # Body.watch: the client left before the end
    headers: dict[bytes, bytes] = attrs.field(factory=dict[bytes, bytes])  # any layer, own names

    def remaining(self) -> float:
        """Seconds until the deadline; without one, for ever."""
        return math.inf if self.deadline is None else self.deadline - time.monotonic()


def enter(scope: Scope, send: Send) -> tuple[Exchange, Scope, Send]:
    """The Exchange of ``scope``, with the scope and send to hand on; else a new one.

    Only the layer that makes the Exchange writes ``exchange.headers`` on the response, once, at
    its start.
    """
    found: Exchange | None = scope.get(EXCHANGE)
    if found is not None:
        return found, scope, send
    exchange = Exchange()

    async def send_with_headers(message: Message) -> None:
        if message["type"] == START and exchange.headers:
            headers = set_headers(message.get("headers", ()), exchange.headers.items())
            message = {**message, "headers": headers}
        await send(message)

    return exchange, {**scope, EXCHANGE: exchange}, send_with_headers


def attempt_of(scope: Scope) -> Attempt:
    """The Attempt that Retry made for this run; used alone, a fresh one."""
    found: Attempt | None = scope.get(ATTEMPT)
    return found or Attempt()
