"""LLMGatewayProvider: the Python API: the gateway's relay, clocks, retries, errors; no HTTP."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping

import anyio
import attrs

from llmgw import telemetry
from llmgw.errors import GatewayError
from llmgw.exchange import Attempt, Deployment
from llmgw.providers.base import Clocks, Provider, Run
from llmgw.providers.echo import EchoProvider
from llmgw.providers.keys import resolve
from llmgw.providers.litellm import LiteLLMProvider, count_tokens
from llmgw.providers.openai import OpenAIProvider
from llmgw.relay import Relay
from llmgw.retrying import RetryPolicy
from llmgw.upstream import Upstream
from llmgw.wire import CompletionChunk, CompletionRequest, read_chunk


def default_providers(clocks: Clocks | None = None) -> dict[str, Provider]:
    """The three ways out, by ``Deployment.via``. Nothing is opened or imported before its use."""
    connect = (clocks or Clocks()).connect
    return {
        "openai": OpenAIProvider(Upstream(connect)),
        "litellm": LiteLLMProvider(),
        "echo": EchoProvider(),
    }


def resolve_from_environment(model: str) -> Deployment:
    """A model's name as a Deployment, with the keys of the environment."""
    return resolve(model, os.environ)


@attrs.define(eq=False)
class LLMGatewayProvider:
    """Every provider behind one call.

    ``deployments`` names models of your own; any other name goes by its provider's prefix and the
    keys in the environment. Transient errors are retried by ``retry`` until the first chunk has
    been given.
    """

    deployments: Mapping[str, Deployment] = attrs.field(factory=dict[str, Deployment], kw_only=True)
    resolve: Callable[[str], Deployment] = attrs.field(
        default=resolve_from_environment, kw_only=True
    )
    retry: RetryPolicy = attrs.field(factory=RetryPolicy, kw_only=True)
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
        attempt = Attempt()
        run: Run | None = None
        error: Exception | None = None
        inference.start()
        try:
            attempt.deployment = self.deployments.get(call.model) or self.resolve(call.model)
            attempt.provider = attempt.deployment.provider
            with inference.use():
                run, given = await self._begin(request, attempt)
            attempt.first_token_at = time.perf_counter()
            while given:
                for payload in given:
                    yield read_chunk(payload)
                given = await run.more() if call.stream else []
        except Exception as exc:
            error = exc
            raise
        finally:
            if run is not None:
                run.relay.report(attempt)
                await run.aclose()
            inference.finish(attempt, error)

    async def count_tokens(self, *, text: str, model: str) -> int:
        """How many tokens ``text`` is for ``model``; estimated if its tokenizer is not public."""
        return await count_tokens(text, model)

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        for provider in self.providers.values():
            await provider.aclose()

    async def _begin(self, request: CompletionRequest, attempt: Attempt) -> tuple[Run, list[bytes]]:
        assert attempt.deployment is not None
        deployment = attempt.deployment
        while True:
            relay = Relay(request.call, deployment.provider)
            provider = self.providers[deployment.via]
            run = Run(provider, request.call, deployment, self.clocks, relay)
            try:
                given = await run.begin(telemetry.inject())
            except GatewayError as exc:
                await run.aclose()
                wait = self.retry.wait_after(attempt.number, exc)
                if wait is None:
                    raise
            except BaseException:
                await run.aclose()
                raise
            else:
                return run, given
            attempt.number += 1
            await anyio.sleep(wait)
