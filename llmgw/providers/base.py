"""What a provider is: it opens an answer to a call at a deployment, and raises only our errors."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Protocol

import anyio
import attrs
from attrs.validators import gt
from msgspec import Struct

from llmgw import errors
from llmgw._concurrency.block import Expired
from llmgw.asgi import Header
from llmgw.exchange import Deployment
from llmgw.relay import Relay
from llmgw.upstream import StaleConnectionError
from llmgw.wire import Call

CLEANUP = 1.0  # seconds an answer may take to close; chosen
FOR_CLIENTS = (b"openai-processing-ms", b"x-ratelimit-")  # how headers begin that go through


def for_clients(headers: Iterable[Header]) -> list[Header]:
    """The upstream's headers that the client may see; Retry-After is the gateway's own to say."""
    return [pair for pair in headers if pair[0].startswith(FOR_CLIENTS)]


class Answer(Protocol):
    """An open answer. Whoever opened it closes it, shielded."""

    headers: Sequence[Header]  # of the upstream, by allow-list, fit for the client

    def read(self, due: float) -> Awaitable[list[bytes]]:
        """The JSON texts that have come (``[DONE]`` included), [] at the end.

        Without ``stream``: the pieces that have come of one JSON text. It waits until ``due``
        (``time.monotonic()``). Raises GatewayError, Expired.
        """
        ...

    def release(self) -> bool:
        """Give back what is complete, without a wait; False: it must be closed."""
        ...

    async def aclose(self) -> None:
        """Close the upstream's connection or give it back. May be called twice."""
        ...


class Provider(Protocol):
    """The way out to a family of models."""

    async def open(
        self, call: Call, deployment: Deployment, headers: Sequence[Header], due: float
    ) -> Answer:
        """Send the call with ``headers`` (traceparent) and wait for the answer's status.

        It waits until ``due`` (``time.monotonic()``). Raises GatewayError, Expired.
        """
        ...

    async def aclose(self) -> None:
        """Give up what is held between calls."""
        ...


@attrs.frozen(kw_only=True)
class Clocks:
    """Seconds the upstream may take, by kind of wait; time spent in ``send`` never counts."""

    connect: float = attrs.field(default=5, validator=gt(0))
    first_token: float = attrs.field(default=30, validator=gt(0))  # request sent -> first content
    failover_first_token: float = attrs.field(default=10, validator=gt(0))  # if there is another
    idle: float = attrs.field(default=15, validator=gt(0))  # between two reads of an answer
    answer: float = attrs.field(default=300, validator=gt(0))  # without stream: to the whole answer
    failover_first_byte: float = attrs.field(default=30, validator=gt(0))  # if there is another
    tail: float = attrs.field(default=1, validator=gt(0))  # complete -> usage and [DONE]; law 4
    total: float = attrs.field(default=600, validator=gt(0))  # all waits of a call; generate only


class Run(Struct, eq=False):
    """One attempt at one deployment: an answer driven through a Relay under the clocks.

    Used by the completion app and by ``generate``, so that both obey the same law of the stream.
    """

    provider: Provider
    call: Call
    deployment: Deployment
    clocks: Clocks
    relay: Relay
    left: float = math.inf  # seconds of waiting that the call has left
    answer: Answer | None = None
    number: int = 1  # of the attempt at this deployment
    failover: bool = False  # another deployment may be asked instead: the shorter clocks run
    resent: bool = False  # the request was sent again, in place of a kept connection that died

    async def begin(self, headers: Sequence[Header] = ()) -> list[bytes]:
        """Open the answer and read until its first content: the payloads to send first.

        Raises GatewayError.
        """
        clocks, stream, began = self.clocks, self.call.stream, time.monotonic()
        if stream:
            what, longest, other = "first token", clocks.first_token, clocks.failover_first_token
        else:
            what, longest, other = "answer", clocks.answer, clocks.failover_first_byte
        limit = min(longest, self.left, other if self.failover else longest)
        due = began + limit
        try:
            try:
                answer = await self.provider.open(self.call, self.deployment, headers, due)
            except StaleConnectionError:
                if self.number > 1:
                    raise  # it is a repeat already: the next counts as one, too
                self.resent = True
                answer = await self.provider.open(self.call, self.deployment, headers, due)
            self.answer = answer
            if not stream:
                return [await self._whole(answer, began + min(longest, self.left))]
            while not (given := self._feed(await answer.read(due))):
                pass
        except Expired:
            raise self._timeout(what, limit) from None
        finally:
            self.left -= time.monotonic() - began
        return given

    async def more(self) -> list[bytes]:
        """The payloads that came next, [] when the answer is complete. Raises GatewayError."""
        assert self.answer is not None  # begin() has opened it
        relay, clocks = self.relay, self.clocks
        while not relay.ended:
            complete = relay.complete
            limit = clocks.tail if complete else clocks.idle
            if self.left < limit:
                limit = self.left
            began = time.monotonic()
            try:
                payloads = await self.answer.read(began + limit)
            except Expired:
                if not complete:
                    raise self._timeout("next chunk", limit) from None
                payloads = []
            self.left -= time.monotonic() - began
            if given := relay.feed(payloads):
                return given  # what was good goes out first; what failed is raised the next time
        if relay.error is not None:
            raise relay.error
        return []

    @property
    def headers(self) -> Sequence[Header]:
        """The upstream's that are fit for the client, once it has answered."""
        return () if self.answer is None else self.answer.headers

    def release(self) -> bool:
        """Give back what is complete, without a wait; False: it must be closed."""
        return self.answer is None or self.answer.release()

    async def aclose(self) -> None:
        """Close the answer, also when the caller is being cancelled."""
        if self.answer is not None and not self.release():
            with anyio.move_on_after(CLEANUP, shield=True):
                await self.answer.aclose()

    async def _whole(self, answer: Answer, due: float) -> bytes:
        """Read an answer in one piece to its end. Between two pieces of it runs the idle clock."""
        parts: list[bytes] = []
        while True:
            now = time.monotonic()
            wait = min(self.clocks.idle, due - now)
            try:
                payloads = await answer.read(now + wait)
            except Expired:
                raise self._timeout("further byte", wait) from None
            if not payloads:
                return self.relay.whole(b"".join(parts))
            parts += payloads

    def _feed(self, payloads: list[bytes]) -> list[bytes]:
        given = self.relay.feed(payloads)
        if self.relay.error is not None and not given:
            raise self.relay.error
        return given

    def _timeout(self, what: str, limit: float) -> errors.TimeoutError:
        name = self.deployment.provider
        return errors.TimeoutError(f"{name} sent no {what} within {limit:g} s.", provider=name)
