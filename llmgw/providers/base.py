"""What a provider is: it opens an answer to a call at a deployment, and raises only our errors."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Protocol

import anyio
import attrs
from attrs.validators import gt

from llmgw import errors
from llmgw.asgi import Header
from llmgw.block import Block
from llmgw.exchange import Deployment
from llmgw.relay import Relay
from llmgw.wire import Call

CLEANUP = 1.0  # seconds an answer may take to close; chosen


class Answer(Protocol):
    """An open answer. Whoever opened it closes it, shielded."""

    headers: Sequence[Header]  # of the upstream, by allow-list, fit for the client

    async def read(self) -> list[bytes]:
        """The JSON texts that have come (``[DONE]`` included), [] at the end.

        Without ``stream`` the first read gives the whole answer as one text.
        Raises GatewayError.
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

    async def open(self, call: Call, deployment: Deployment, headers: Sequence[Header]) -> Answer:
        """Send the call with ``headers`` (traceparent) and wait for the answer's status.

        Raises GatewayError.
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
    idle: float = attrs.field(default=15, validator=gt(0))  # between two reads of a stream
    answer: float = attrs.field(default=300, validator=gt(0))  # without stream: to the whole answer
    tail: float = attrs.field(default=1, validator=gt(0))  # complete -> usage and [DONE]; law 4
    total: float = attrs.field(default=600, validator=gt(0))  # all waits of a call; generate only


@attrs.define
class Run:
    """One attempt at one deployment: an answer driven through a Relay under the clocks.

    Used by the completion app and by ``generate``, so that both obey the same law of the stream. No
    cancel scope of it outlives a call.
    """

    provider: Provider
    call: Call
    deployment: Deployment
    clocks: Clocks
    relay: Relay
    left: float = math.inf  # seconds of waiting that the call has left
    answer: Answer | None = None

    async def begin(self, headers: Sequence[Header] = ()) -> list[bytes]:
        """Open the answer and read until its first content: the payloads to send first.

        Raises GatewayError.
        """
        limit, began = min(self._before, self.left), time.monotonic()
        try:
            with Block(limit):
                self.answer = await self.provider.open(self.call, self.deployment, headers)
                while not (given := self._take(await self.answer.read())):
                    pass
                return given
        finally:
            self.left -= time.monotonic() - began
        raise self._timeout("first token" if self.call.stream else "answer", limit)

    async def more(self) -> list[bytes]:
        """The payloads that came next, [] when the answer is complete. Raises GatewayError."""
        assert self.answer is not None  # begin() has opened it
        while not self.relay.ended:
            complete = self.relay.complete
            limit = min(self.clocks.tail if complete else self.clocks.idle, self.left)
            payloads, began = list[bytes](), time.monotonic()
            with Block(limit) as clock:
                payloads = await self.answer.read()
            self.left -= time.monotonic() - began
            if clock.cut and not complete:
                raise self._timeout("next chunk", limit)
            if given := self._take(payloads):
                return given
        if self.relay.error is not None:
            raise self.relay.error
        return []

    async def aclose(self) -> None:
        """Close the answer, also when the caller is being cancelled."""
        if self.answer is not None and not self.answer.release():
            with anyio.move_on_after(CLEANUP, shield=True):
                await self.answer.aclose()

    @property
    def _before(self) -> float:
        return self.clocks.first_token if self.call.stream else self.clocks.answer

    def _take(self, payloads: list[bytes]) -> list[bytes]:
        if not self.call.stream:
            return [self.relay.whole(b"".join(payloads))]
        given = self.relay.feed(payloads) if payloads else []
        if not payloads:
            self.relay.end()
        if self.relay.error is not None and not given:
            raise self.relay.error  # else: what was good goes out first, more() raises
        return given

    def _timeout(self, what: str, limit: float) -> errors.TimeoutError:
        name = self.deployment.provider
        return errors.TimeoutError(f"{name} sent no {what} within {limit:g} s.", provider=name)
