"""LLMGatewayProvider: the Python API as its users write it, on both loops."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from llmgw.exchange import Deployment
from llmgw.providers import (
    AuthError,
    CompletionRequest,
    InvalidRequestError,
    LLMGatewayProvider,
    NotFoundError,
    ProviderUnavailableError,
    RateLimitError,
)
from llmgw.providers.base import Clocks
from llmgw.retrying import BUDGET_S, RetryBudget, RetryPolicy
from tests.upstreams.recorder import Recorder, Reply, chat_chunks, stream

HI = [{"role": "user", "content": "hi there"}]


@pytest.fixture
async def provider(recorder: Recorder) -> AsyncIterator[LLMGatewayProvider]:
    here = Deployment("openai", "m", f"{recorder.url}/v1", "sk-ours")
    echo = Deployment("echo", "echo", via="echo")
    made = LLMGatewayProvider(
        deployments={"here": here, "echo": echo}, retry=RetryPolicy(backoff=0.0)
    )
    yield made
    await made.aclose()


async def test_streaming(provider: LLMGatewayProvider) -> None:
    """Chunks with content come as they are said; the last one has the usage."""
    request = CompletionRequest(model="here", messages=HI, stream=True)

    chunks = [chunk async for chunk in provider.generate(request)]

    assert "".join(chunk.content for chunk in chunks) == "Hello from upstream"
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 12


async def test_not_streaming_gives_one_chunk_with_content_and_usage(
    provider: LLMGatewayProvider,
) -> None:
    """Without stream the iterator has one item."""
    request = CompletionRequest(model="echo", messages=HI)

    [chunk] = [chunk async for chunk in provider.generate(request)]

    assert chunk.content == "hi there"
    assert chunk.usage is not None
    assert chunk.usage.completion_tokens == 2
    assert chunk.raw["object"] == "chat.completion"


async def test_the_fields_and_defaults_of_the_request(
    provider: LLMGatewayProvider, recorder: Recorder
) -> None:
    """Temperature 0.7 goes out by default; what is None does not; extra goes through."""
    extra: dict[str, Any] = {"seed": 7, "tools": []}
    request = CompletionRequest(model="here", messages=HI, user="u", extra=extra)

    [_] = [chunk async for chunk in provider.generate(request)]

    sent = recorder.requests[0].json()
    assert sent == {
        "model": "m",
        "messages": HI,
        "temperature": 0.7,
        "user": "u",
        "seed": 7,
        "tools": [],
    } | ({"stream": False} if "stream" in sent else {})


@pytest.mark.parametrize("streamed", [False, True])
async def test_transient_errors_are_retried_before_the_caller_sees_them(
    provider: LLMGatewayProvider, recorder: Recorder, streamed: bool
) -> None:
    """Two failures and then an answer is an answer."""
    recorder.script.extend([Reply(status=503), Reply(status=500)])
    request = CompletionRequest(model="here", messages=HI, stream=streamed)

    chunks = [chunk async for chunk in provider.generate(request)]

    assert "".join(chunk.content for chunk in chunks) == "Hello from upstream"
    assert len(recorder.requests) == 3


async def test_all_repeats_together_are_bounded_by_the_budget(
    provider: LLMGatewayProvider, recorder: Recorder
) -> None:
    """A budget of one repeat: the first call has it, the second is asked once."""
    provider.budget = RetryBudget(0, reserve=1 / BUDGET_S, clock=lambda: 0.0)
    recorder.script.extend([Reply(status=503)] * 3)

    for _ in range(2):
        with pytest.raises(ProviderUnavailableError):
            await anext(provider.generate(CompletionRequest(model="here", messages=HI)))

    assert len(recorder.requests) == 3


async def test_a_wait_that_does_not_fit_in_the_time_is_not_begun(
    provider: LLMGatewayProvider, recorder: Recorder
) -> None:
    """The limit is told at once: after the wait there would be no time to answer."""
    provider.clocks = Clocks(total=8)
    recorder.script.append(Reply(status=429, headers={"retry-after": "9"}))

    with pytest.raises(RateLimitError):
        await anext(provider.generate(CompletionRequest(model="here", messages=HI)))

    assert len(recorder.requests) == 1


@pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")  # the first loop's connection
@pytest.mark.parametrize("via", ["openai", "litellm", "echo"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "backends", [("asyncio", "asyncio"), ("asyncio", "trio"), ("trio", "asyncio")], ids="-".join
)
def test_one_provider_serves_one_event_loop_after_another(
    recorder: Recorder, via: str, streamed: bool, backends: tuple[str, str]
) -> None:
    """Made at a module's level, as the README shows it: with new connections in each."""
    model = "echo" if via == "echo" else "m"
    here = Deployment("openai", model, f"{recorder.url}/v1", "sk-ours", via=via)
    provider = LLMGatewayProvider(deployments={"here": here}, retry=RetryPolicy(attempts=1))
    request = CompletionRequest(model="here", messages=HI, stream=streamed)

    async def ask() -> str:
        return "".join([chunk.content async for chunk in provider.generate(request)])

    said = [anyio.run(ask, backend=backend) for backend in (*backends, *backends)]
    anyio.run(provider.aclose, backend=backends[0])
    provider.providers = {}
    gc.collect()  # here, where the warning is expected

    assert said == ["hi there" if via == "echo" else "Hello from upstream"] * 4


async def test_the_last_error_reaches_the_caller(
    provider: LLMGatewayProvider, recorder: Recorder
) -> None:
    """When the attempts are spent the typed error names the provider."""
    recorder.script.extend([Reply(status=503)] * 3)
    request = CompletionRequest(model="here", messages=HI)

    with pytest.raises(ProviderUnavailableError) as caught:
        await anext(provider.generate(request))

    assert caught.value.provider == "openai"
    assert len(recorder.requests) == 3


async def test_a_limit_tells_when_to_come_back(
    provider: LLMGatewayProvider, recorder: Recorder
) -> None:
    """A Retry-After longer than we would wait is the caller's to see."""
    recorder.script.append(Reply(status=429, headers={"retry-after": "60"}))

    with pytest.raises(RateLimitError) as caught:
        await anext(provider.generate(CompletionRequest(model="here", messages=HI)))

    assert caught.value.retry_after == 60
    assert len(recorder.requests) == 1


async def test_a_begun_stream_is_not_retried(
    provider: LLMGatewayProvider, recorder: Recorder
) -> None:
    """What was said is kept, and the cut is told as one."""
    recorder.script.append(stream(chat_chunks()[:2]))
    said: list[str] = []

    async def listen() -> None:
        request = CompletionRequest(model="here", messages=HI, stream=True)
        async for chunk in provider.generate(request):
            said.append(chunk.content)

    with pytest.raises(ProviderUnavailableError) as caught:
        await listen()

    assert "".join(said)
    assert caught.value.code == "upstream_truncated"
    assert len(recorder.requests) == 1


async def test_leaving_early_closes_the_upstreams_connection(
    provider: LLMGatewayProvider, recorder: Recorder
) -> None:
    """A consumer that breaks out does not leave a stream running."""
    recorder.script.append(stream(chat_chunks(), hold=2))
    request = CompletionRequest(model="here", messages=HI, stream=True)

    async with aclosing(provider.generate(request)) as chunks:
        async for _ in chunks:
            break

    await recorder.until(lambda: recorder.closed == 1)


async def test_an_upstream_that_refuses_our_key(
    provider: LLMGatewayProvider, recorder: Recorder
) -> None:
    """AuthError names the provider and is not retried."""
    recorder.script.append(Reply(status=401))

    with pytest.raises(AuthError) as caught:
        await anext(provider.generate(CompletionRequest(model="here", messages=HI)))

    assert caught.value.provider == "openai"
    assert len(recorder.requests) == 1


async def test_a_missing_key_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is read at the call; what is missing is said by name."""
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    request = CompletionRequest(model="groq/llama-3.1-70b-versatile", messages=HI)

    with pytest.raises(AuthError, match="GROQ_API_KEY"):
        await anext(LLMGatewayProvider().generate(request))


async def test_an_unknown_model_is_not_found() -> None:
    """A name that leads nowhere is a 404, before any call."""
    with pytest.raises(NotFoundError):
        await anext(
            LLMGatewayProvider().generate(CompletionRequest(model="no-such-model", messages=HI))
        )


def build(model: str = "m", messages: Any = HI, **fields: Any) -> CompletionRequest:
    return CompletionRequest(model=model, messages=messages, **fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"messages": []}, "messages"),
        ({"model": ""}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_a_bad_request_is_refused_when_it_is_built(fields: dict[str, Any], param: str) -> None:
    """The Python API checks by the rules of the HTTP API."""
    with pytest.raises(InvalidRequestError) as caught:
        build(**fields)

    assert caught.value.param == param


def test_what_json_cannot_say_is_an_invalid_request() -> None:
    """An object in the messages is refused, not raised through."""
    with pytest.raises(InvalidRequestError):
        CompletionRequest(model="m", messages=[{"role": "user", "content": object()}])


async def test_a_call_is_logged_at_its_start_and_end(
    provider: LLMGatewayProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """Two JSON lines linked by one id, and nothing of the prompt in them."""
    with caplog.at_level(logging.INFO, logger="llmgw"):
        [_] = [
            chunk async for chunk in provider.generate(CompletionRequest(model="echo", messages=HI))
        ]

    start, complete = (json.loads(record.getMessage()) for record in caplog.records)
    assert (start["event"], complete["event"]) == ("llm_request_start", "llm_request_complete")
    assert start["request_id"] == complete["request_id"]
    assert "hi there" not in caplog.text


async def test_tokens_are_counted(provider: LLMGatewayProvider) -> None:
    """A count needs no network."""
    assert 3 <= await provider.count_tokens(text="How many tokens is this?", model="gpt-4o") <= 12
