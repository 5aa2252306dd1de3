"""LLMGatewayProvider: the Python API: the gateway's relay, clocks, retries, errors; no HTTP."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

import anyio
import attrs

from llmgw import telemetry
from llmgw.cooldown import Cooldown, MemoryCooldown
from llmgw.errors import GatewayError, RateLimitError, untrace
from llmgw.exchange import Attempt, Deployment
from llmgw.providers.base import Clocks, Provider, Run
from llmgw.providers.echo import EchoProvider
from llmgw.providers.keys import resolve
from llmgw.providers.litellm import LiteLLMProvider, count_tokens
from llmgw.providers.openai import OpenAIProvider
from llmgw.relay import Relay
from llmgw.retrying import RetryBudget, RetryPolicy
from llmgw.routing import Candidate
from llmgw.upstream import CONNECTIONS, Upstream
from llmgw.walk import Turn, Waits, Walk
from llmgw.wire import Call, CompletionChunk, CompletionRequest, read_chunk


def default_providers(
    clocks: Clocks | None = None, connections: int = CONNECTIONS
) -> dict[str, Provider]:
    """The three ways out, by ``Deployment.via``. Nothing is opened or imported before its use.

    ``connections``: how many at once to one upstream; further calls wait for one.
    """
    connect = (clocks or Clocks()).connect
    return {
        "openai": OpenAIProvider(Upstream(connect, connections)),
        "litellm": LiteLLMProvider(),
        "echo": EchoProvider(),
    }


def resolve_from_environment(model: str) -> Deployment:
    """A model's name as a Deployment, with the keys of the environment."""
    return resolve(model, os.environ)


@attrs.define(eq=False)
class LLMGatewayProvider:
    """Every provider behind one call.

    ``deployments`` names models of your own, each one place or several that are asked in order; any
    other name goes by its provider's prefix and the keys in the environment. Until the first chunk
    has been given, transient errors are retried by ``retry`` and the next deployment is asked, at
    most ``attempts`` times in all; what keeps failing is left alone by ``cooldown``.
    """

    deployments: Mapping[str, Deployment | Sequence[Deployment]] = attrs.field(
        factory=dict[str, Deployment | Sequence[Deployment]], kw_only=True
    )
    resolve: Callable[[str], Deployment] = attrs.field(
        default=resolve_from_environment, kw_only=True
    )
    retry: RetryPolicy = attrs.field(factory=RetryPolicy, kw_only=True)
    budget: RetryBudget | None = attrs.field(factory=RetryBudget, kw_only=True)
    cooldown: Cooldown = attrs.field(factory=MemoryCooldown, kw_only=True)
    attempts: int = attrs.field(default=6, kw_only=True)
    clocks: Clocks = attrs.field(factory=Clocks, kw_only=True)
    providers: Mapping[str, Provider] = attrs.field(
        default=attrs.Factory(lambda self: default_providers(self.clocks), takes_self=True),
        kw_only=True,
    )

    async def generate(self, request: CompletionRequest) -> AsyncGenerator[CompletionChunk, None]:
        """The chunks of the answer; without ``stream`` one, with the whole content and the usage.

        Raises AuthError, RateLimitError, TimeoutError, InvalidRequestError, NotFoundError or
        ProviderUnavailableError. Leaving the iterator early closes the upstream's connection when
        it is closed (``contextlib.aclosing``).
        """
        call = request.call
        inference = telemetry.Inference(call)
        asking = Asking(self, call)
        error: Exception | None = None
        inference.start()
        try:
            with inference.use():
                given = await asking.begin()
            while given:
                for payload in given:
                    yield read_chunk(payload)
                given = await asking.more() if call.stream else []
        except Exception as exc:
            error = exc
            raise
        finally:
            await asking.aclose()
            inference.finish(asking.attempt, error)

    async def count_tokens(self, *, text: str, model: str) -> int:
        """How many tokens ``text`` is for ``model``; estimated if its tokenizer is not public."""
        return await count_tokens(text, model)

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        for provider in self.providers.values():
            await provider.aclose()

    def candidates(self, model: str) -> list[Candidate]:
        """The deployments of a model, in order. Raises NotFoundError, AuthError."""
        found = self.deployments.get(model) or self.resolve(model)
        places = [found] if isinstance(found, Deployment) else found
        return [Candidate(place, f"{model}/{at}") for at, place in enumerate(places)]


@attrs.define(eq=False)
class Asking:
    """One call: from deployment to deployment until one begins to answer, then its answer."""

    owner: LLMGatewayProvider
    call: Call
    attempt: Attempt = attrs.field(factory=Attempt)
    left: float = attrs.field(
        default=attrs.Factory(lambda self: self.owner.clocks.total, takes_self=True)
    )
    sent: int = 0  # requests that went upstream
    walk: Walk | None = None
    turn: Turn | None = None
    run: Run | None = None

    async def begin(self) -> list[bytes]:
        """The first payloads, of the first deployment that answers. Raises GatewayError."""
        owner = self.owner
        waits = Waits(owner.retry.retry_after_max, owner.retry.attempts - 1, owner.budget)
        self.walk = walk = Walk(owner.candidates(self.call.model), owner.cooldown, waits)
        if owner.budget is not None:
            owner.budget.deposit()
        error: GatewayError | None = None
        while (turn := await self._next(walk)) is not None:
            self.turn = turn
            try:
                return await self._ask(walk, turn)
            except GatewayError as exc:
                error = exc
                await walk.failed(turn, exc)
                await walk.release(turn)
            if not error.next or self.sent >= owner.attempts:
                break
        raise error or walk.refusal()

    async def more(self) -> list[bytes]:
        """The next payloads, [] at the end. Raises GatewayError."""
        assert self.run is not None
        assert self.walk is not None
        assert self.turn is not None
        try:
            return await self.run.more()
        except GatewayError as exc:
            await self.walk.failed(self.turn, exc)
            raise

    async def aclose(self) -> None:
        """Close what is open, and tell what was learnt."""
        if self.run is not None:
            self.run.relay.report(self.attempt)
            await self.run.aclose()
        if self.walk is not None and self.turn is not None:
            await self.walk.release(self.turn)

    async def _next(self, walk: Walk) -> Turn | None:
        before = walk.waited
        turn = walk.healthy() or await walk.next(lambda: self.left)
        self.left -= walk.waited - before
        return turn

    async def _ask(self, walk: Walk, turn: Turn) -> list[bytes]:
        """One deployment, as often as the policy says."""
        owner, deployment = self.owner, turn.candidate.deployment
        allowed = 1 if turn.single else min(owner.retry.attempts, owner.attempts - self.sent)
        number = 0
        while True:
            number += 1
            self.sent += 1
            self.attempt = Attempt(number, deployment, deployment.provider)
            relay = Relay(self.call, deployment.provider)
            provider = owner.providers[deployment.via]
            run = self.run = Run(
                provider,
                self.call,
                deployment,
                owner.clocks,
                relay,
                self.left,
                number=number,
                failover=turn.left > 0,
            )
            try:
                given = await run.begin(telemetry.inject())
            except GatewayError as exc:
                await run.aclose()
                self.left = run.left
                self.sent += run.resent
                number += run.resent
                wait = self._wait(number, allowed, turn, exc)
                if wait is None:
                    raise
                untrace(exc)
                await anyio.sleep(wait)
                self.left -= wait
            else:
                self.attempt.first_token_at = time.perf_counter()
                await walk.answered(turn)
                return given

    def _wait(self, number: int, allowed: int, turn: Turn, error: GatewayError) -> float | None:
        """Seconds until the same deployment is asked again; None: not by this turn."""
        if number >= allowed or error.retry_after is not None:
            return None  # what asks for a wait goes to the walk
        if isinstance(error, RateLimitError) and turn.left:
            return None
        wait = self.owner.retry.wait_after(number, error)
        budget = self.owner.budget
        if wait is None or wait >= self.left or (budget is not None and not budget.withdraw()):
            return None
        return wait
