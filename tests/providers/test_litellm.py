"""LiteLLMProvider: LiteLLM translates, and nothing else of it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from llmgw import errors
from llmgw.errors import GatewayError
from llmgw.exchange import Attempt, Deployment
from llmgw.providers.base import Clocks, Run
from llmgw.providers.litellm import LiteLLMProvider, arguments
from llmgw.relay import Relay
from llmgw.wire import DONE, Call, read_call
from tests.servers import free_port
from tests.upstreams.recorder import TEXT, Recorder, Reply, event, stream

pytestmark = pytest.mark.usefixtures("close_litellm")

ASK = {"model": "asked", "messages": [{"role": "user", "content": "hi"}]}
KEY = "sk-ours-0123456789"


def call_of(**fields: Any) -> Call:
    return read_call(json.dumps({**ASK, **fields}).encode())


def place(provider: str, recorder: Recorder) -> Deployment:
    """A deployment of a provider whose API the recorder speaks."""
    options = (("api_version", "2024-10-21"),) if provider == "azure" else ()
    base = recorder.url + ("/v1" if provider == "openai" else "")
    return Deployment(provider, "there", base, KEY, via="litellm", options=options)


async def ask(
    call: Call, deployment: Deployment, clocks: Clocks | None = None
) -> tuple[list[bytes], Attempt]:
    """Every payload of one attempt, and what was learned of it."""
    attempt = Attempt()
    relay = Relay(call, deployment.provider)
    run = Run(LiteLLMProvider(), call, deployment, clocks or Clocks(), relay)
    try:
        given = payloads = await run.begin([(b"traceparent", b"00-1-2-01")])
        while call.stream and given:
            given = await run.more()
            payloads = [*payloads, *given]
        return payloads, attempt
    finally:
        relay.report(attempt)
        await run.aclose()


def text_of(payloads: list[bytes]) -> str:
    """The text of all chunks."""
    chunks = [json.loads(payload) for payload in payloads if payload != DONE]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


PROVIDERS = ["openai", "azure", "anthropic", "gemini"]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_whole_answer_is_openais(provider: str, recorder: Recorder) -> None:
    """Whatever the provider speaks, the client reads OpenAI's object, with the usage."""
    [body], attempt = await ask(call_of(), place(provider, recorder))

    found = json.loads(body)
    assert found["object"] == "chat.completion"
    assert found["choices"][0]["message"]["content"] == TEXT
    assert found["choices"][0]["finish_reason"] == "stop"
    assert (found["usage"]["prompt_tokens"], found["usage"]["completion_tokens"]) == (9, 3)
    assert attempt.usage is not None
    assert attempt.usage.total_tokens == 12


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_stream_is_openais(provider: str, recorder: Recorder) -> None:
    """Chunks of OpenAI's form, one finish reason, the usage that was asked for."""
    call = call_of(stream=True, stream_options={"include_usage": True})

    payloads, attempt = await ask(call, place(provider, recorder))

    chunks = [json.loads(payload) for payload in payloads if payload != DONE]
    reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"]]
    assert text_of(payloads) == TEXT
    assert [reason for reason in reasons if reason] == ["stop"]
    assert attempt.usage is not None
    assert (attempt.usage.prompt_tokens, attempt.usage.completion_tokens) == (9, 3)
    assert attempt.finish_reasons == ("stop",)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_usage_is_known_but_not_shown_when_nobody_asked(
    provider: str, recorder: Recorder
) -> None:
    """The meter reads it; a client that did not ask for it gets no chunk without choices."""
    payloads, attempt = await ask(call_of(stream=True), place(provider, recorder))

    chunks = [json.loads(payload) for payload in payloads if payload != DONE]
    assert all(chunk["choices"] for chunk in chunks)
    assert attempt.usage is not None
    assert attempt.usage.completion_tokens == 3


def error_body(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "param": None, "code": code}}


TOO_LONG = "This model's maximum context length is 8 tokens."
ERRORS: dict[str, tuple[Reply, type[GatewayError], int]] = {
    "400": (Reply(400, body=error_body("bad field")), errors.InvalidRequestError, 400),
    "context": (
        Reply(400, body=error_body(TOO_LONG, "context_length_exceeded")),
        errors.InvalidRequestError,
        400,
    ),
    "401": (Reply(401, body=error_body("no " + KEY)), errors.AuthError, 401),
    "403": (Reply(403, body=error_body("no")), errors.PermissionDeniedError, 403),
    "404": (Reply(404, body=error_body("none")), errors.NotFoundError, 404),
    "429": (
        Reply(429, {"retry-after": "7"}, error_body("slow down")),
        errors.RateLimitError,
        429,
    ),
    "500": (Reply(500, body=error_body("x")), errors.ProviderUnavailableError, 502),
    "503": (Reply(503, body=error_body("x")), errors.ProviderUnavailableError, 502),
    "html": (Reply(502, body="<html>proxy</html>"), errors.ProviderUnavailableError, 502),
}


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("name", ERRORS)
async def test_refusal_is_one_of_our_errors(name: str, provider: str, recorder: Recorder) -> None:
    """Class and status as the pass-through gives them; no key, no trace, no HTML in the text."""
    reply, kind, status = ERRORS[name]
    recorder.script.append(reply)

    with pytest.raises(GatewayError) as caught:
        await ask(call_of(), place(provider, recorder))

    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.provider == provider
    assert not {KEY, "Traceback", "litellm", "<html"} & set(caught.value.message.split())
    assert len(recorder.requests) == 1  # LiteLLM's own retries are off


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_wait_that_a_provider_asks_for_is_kept(provider: str, recorder: Recorder) -> None:
    """Retry-After reaches the layers that wait."""
    recorder.script.append(ERRORS["429"][0])

    with pytest.raises(errors.RateLimitError) as caught:
        await ask(call_of(), place(provider, recorder))

    assert caught.value.retry_after == 7


async def test_context_that_is_too_long_has_its_code(recorder: Recorder) -> None:
    """By it a fallback knows that another model may have room."""
    recorder.script.append(ERRORS["context"][0])

    with pytest.raises(errors.InvalidRequestError) as caught:
        await ask(call_of(), place("openai", recorder))

    assert caught.value.code == "context_length_exceeded"
    assert caught.value.next


async def test_nobody_there_is_unavailable() -> None:
    """A refused connection says so, in a second, not LiteLLM's text."""
    deployment = Deployment("openai", "m", f"http://127.0.0.1:{free_port()}", KEY, via="litellm")

    with pytest.raises(errors.ProviderUnavailableError) as caught:
        await ask(call_of(), deployment)

    assert "openai" in caught.value.message


CUT: Mapping[str, list[bytes]] = {
    "openai": [
        event(
            {
                "id": "x",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}],
            }
        )
    ],
    "anthropic": [
        event(
            {
                "type": "message_start",
                "message": {
                    "id": "x",
                    "type": "message",
                    "role": "assistant",
                    "model": "m",
                    "content": [],
                    "usage": {"input_tokens": 9, "output_tokens": 1},
                },
            },
            "message_start",
        ),
        event(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": "Hel"},
            },
            "content_block_delta",
        ),
    ],
}


@pytest.mark.parametrize("provider", CUT)
async def test_end_without_a_finish_reason_is_a_cut(provider: str, recorder: Recorder) -> None:
    """LiteLLM up to 1.109 makes up a ``stop``, which is not believed; later it notices itself."""
    recorder.script.append(stream(CUT[provider]))

    with pytest.raises(errors.ProviderUnavailableError) as caught:
        await ask(call_of(stream=True), place(provider, recorder))

    assert caught.value.code in ("upstream_truncated", "provider_unavailable")


@pytest.mark.parametrize("provider", CUT)
async def test_connection_that_breaks_is_an_error(provider: str, recorder: Recorder) -> None:
    """A reset in mid-stream is never the end of an answer."""
    recorder.script.append(stream([*CUT[provider], *CUT[provider]], cut=len(CUT[provider])))

    with pytest.raises(errors.ProviderUnavailableError):
        await ask(call_of(stream=True), place(provider, recorder))


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_leaving_closes_the_upstreams_connection(
    provider: str, streamed: bool, recorder: Recorder
) -> None:
    """Cancelled while it waits for headers: the provider must not go on for nobody."""
    recorder.script.append(stream(CUT[provider], hold=0))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, call_of(stream=streamed), place(provider, recorder))
        await recorder.until(lambda: recorder.holding == 1)
        tasks.cancel_scope.cancel()

    await recorder.until(lambda: recorder.cut == 1)


@pytest.mark.parametrize("provider", CUT)
async def test_closing_early_closes_the_upstreams_connection(
    provider: str, recorder: Recorder
) -> None:
    """After the first content the answer is closed, and so is the connection."""
    recorder.script.append(stream([*CUT[provider], *CUT[provider]], hold=len(CUT[provider])))
    call = call_of(stream=True)
    run = Run(LiteLLMProvider(), call, place(provider, recorder), Clocks(), Relay(call, provider))

    await run.begin()
    await run.aclose()
    await run.aclose()  # twice is once

    await recorder.until(lambda: recorder.cut == 1)


async def test_silence_meets_the_clock(recorder: Recorder) -> None:
    """The clocks are ours on this path too."""
    recorder.script.append(stream(CUT["openai"], hold=0))
    clocks = Clocks(first_token=0.2)

    with pytest.raises(errors.TimeoutError):
        await ask(call_of(stream=True), place("openai", recorder), clocks)

    await recorder.until(lambda: recorder.cut == 1)


EVIL = {
    "api_base": "http://evil.example",
    "base_url": "http://evil.example",
    "api_key": "sk-evil",
    "extra_headers": {"x-evil": "1"},
    "headers": {"x-evil": "1"},
    "custom_llm_provider": "ollama",
    "mock_response": "evil",
    "mock_tool_calls": [],
    "num_retries": 9,
    "fallbacks": ["evil/model"],
    "context_window_fallback_dict": {"there": "evil"},
    "metadata": {"x": "y"},
    "proxy_server_request": {},
    "hf_model_name": "evil",
    "timeout": 0.001,
    "ssl_verify": False,
    "cache": {"no-cache": True},
    "aws_bedrock_runtime_endpoint": "http://evil.example",
    "vertex_project": "evil",
}


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_client_does_not_choose_what_litellm_is_called_with(
    provider: str, recorder: Recorder
) -> None:
    """Not address, key, header, provider, mock or retries: they are data at most."""
    deployment = place(provider, recorder)
    given = arguments(call_of(**EVIL), deployment, [])

    [body], _ = await ask(call_of(**EVIL), deployment)

    assert not (EVIL.keys() - {"api_base", "api_key", "num_retries"}) & given.keys()
    assert (given["api_base"], given["api_key"]) == (deployment.api_base, KEY)
    assert given["num_retries"] == 0
    assert b"evil" not in body
    [request] = recorder.requests
    assert "x-evil" not in request.headers
    assert "evil" not in " ".join(request.headers.values())


async def test_unknown_fields_reach_who_speaks_openai(recorder: Recorder) -> None:
    """By ``extra_body``, past LiteLLM's list of what a model's name is said to take."""
    call = call_of(vendor_extension={"x": 1}, seed=7, logprobs=True, tools=[])

    await ask(call, place("openai", recorder))

    asked = recorder.requests[0].json()
    assert asked["vendor_extension"] == {"x": 1}
    assert (asked["seed"], asked["logprobs"]) == (7, True)


async def test_an_own_server_without_a_key_gets_none(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And never the one that the environment has for the provider's own address."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    here = Deployment("openai", "m", recorder.url + "/v1", via="litellm")

    await ask(call_of(), here)

    assert KEY not in str(recorder.requests[0].headers)


async def test_null_is_absent(recorder: Recorder) -> None:
    """An explicit null does not become an argument."""
    await ask(call_of(max_tokens=None, user=None, stop=None), place("anthropic", recorder))

    assert "stop_sequences" not in recorder.requests[0].json()


async def test_tools_are_translated(recorder: Recorder) -> None:
    """OpenAI's tools become Anthropic's."""
    function = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    call = call_of(tools=[{"type": "function", "function": function}], tool_choice="auto")

    await ask(call, place("anthropic", recorder))

    asked = recorder.requests[0].json()
    assert asked["tools"][0]["name"] == "look"
    assert asked["tool_choice"]["type"] == "auto"


async def test_trace_goes_along(recorder: Recorder) -> None:
    """The upstream sees whose call it is."""
    await ask(call_of(), place("openai", recorder))

    assert recorder.requests[0].headers["traceparent"] == "00-1-2-01"
