"""openai-python through the gateway to a real model server and back."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.e2e.conftest import KEY
from tests.servers import Server

ASK: list[Any] = [{"role": "user", "content": "Say something."}]
MODELS = ["llama", "llama-litellm", "llama-anthropic"]
PASS_THROUGH_AND_LITELLM = ["llama", "llama-litellm"]


@pytest.fixture(params=["gateway", "trio_gateway"], scope="module")
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def client_of(server: Server, key: str = KEY) -> OpenAI:
    return OpenAI(base_url=f"{server.base_url}/v1", api_key=key, timeout=60)


@pytest.mark.parametrize("model", MODELS)
def test_a_whole_answer(server: Server, model: str) -> None:
    """A completion has text, a finish reason and the true usage."""
    with client_of(server) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=ASK, max_tokens=8
        )

    answer = raw.parse()
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert raw.headers["x-request-id"]
    assert raw.headers["x-cache-status"] == "MISS"
    assert raw.headers["x-provider"] == ("anthropic" if model == "llama-anthropic" else "openai")


@pytest.mark.parametrize("model", MODELS)
def test_a_stream(server: Server, model: str) -> None:
    """Chunks come with content, one finish reason, and usage where it was asked for."""
    with client_of(server) as client:
        chunks = list(
            client.chat.completions.create(
                model=model,
                messages=ASK,
                max_tokens=8,
                stream=True,
                stream_options={"include_usage": True},
            )
        )

    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert [reason for reason in reasons if reason] in (["length"], ["stop"])
    assert any(chunk.usage and chunk.usage.completion_tokens > 0 for chunk in chunks)


@pytest.mark.parametrize("model", PASS_THROUGH_AND_LITELLM)
def test_no_usage_event_when_not_asked(server: Server, model: str) -> None:
    """A client that did not ask for usage gets no chunk without choices."""
    with client_of(server) as client:
        stream = client.chat.completions.create(
            model=model, messages=ASK, max_tokens=4, stream=True
        )
        assert all(chunk.choices for chunk in stream)


@pytest.mark.parametrize("model", PASS_THROUGH_AND_LITELLM)
def test_json_schema(server: Server, model: str) -> None:
    """A constrained answer is valid by its schema."""
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    with client_of(server) as client:
        answer = client.chat.completions.create(
            model=model, messages=ASK, max_tokens=64, response_format=wanted
        )

    assert isinstance(json.loads(answer.choices[0].message.content or "")["ok"], bool)


@pytest.mark.parametrize("model", PASS_THROUGH_AND_LITELLM)
def test_logprobs(server: Server, model: str) -> None:
    """Log probabilities come back."""
    with client_of(server) as client:
        answer = client.chat.completions.create(
            model=model, messages=ASK, max_tokens=4, logprobs=True, top_logprobs=2
        )

    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content


@pytest.mark.parametrize("model", PASS_THROUGH_AND_LITELLM)
def test_tools(server: Server, model: str) -> None:
    """A forced tool call comes back as one."""
    parameters = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    with client_of(server) as client:
        answer = client.chat.completions.create(
            model=model, messages=ASK, max_tokens=200, tools=tools, tool_choice="required"
        )

    assert answer.choices[0].finish_reason in ("tool_calls", "length")


# openai-python leaves httpx's generators to the garbage collector, which trio does not like.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("model", PASS_THROUGH_AND_LITELLM)
async def test_async_client(server: Server, model: str) -> None:
    """The async client works on asyncio and on trio, streaming and not."""
    async with AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key=KEY) as client:
        answer = await client.chat.completions.create(model=model, messages=ASK, max_tokens=4)
        stream = await client.chat.completions.create(
            model=model, messages=ASK, max_tokens=4, stream=True
        )
        reasons = [chunk.choices[0].finish_reason async for chunk in stream]

    assert answer.choices
    assert reasons[-1] in ("stop", "length")


def test_models_are_listed(server: Server) -> None:
    """The client finds what it can ask for."""
    with client_of(server) as client:
        assert [model.id for model in client.models.list()] == MODELS
        assert client.models.retrieve("llama").id == "llama"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nothing")


def test_the_clients_own_error_classes_come_out(server: Server) -> None:
    """401, 404 and 400 are the classes that users catch, with code and request id."""
    with (
        client_of(server, "sk-wrong") as client,
        pytest.raises(openai.AuthenticationError) as wrong,
    ):
        client.chat.completions.create(model="llama", messages=ASK)
    with client_of(server) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="nothing", messages=ASK)
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(model="llama", messages=ASK, temperature=3)

    assert wrong.value.code == "invalid_api_key"
    assert unknown.value.code == "model_not_found"
    assert bad.value.param == "temperature"
    assert bad.value.request_id


@pytest.mark.parametrize("model", ["llama", "llama-litellm"])
def test_a_prompt_too_long_is_a_bad_request(server: Server, model: str) -> None:
    """The model server's own refusal reaches the client as a 400."""
    long: list[Any] = [{"role": "user", "content": "word " * 20_000}]
    with client_of(server) as client, pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=long)
