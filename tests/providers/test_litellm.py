"""LiteLLMProvider: LiteLLM translates, and nothing else of it shows."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from llmgw import errors
from llmgw._concurrency.block import Expired
from llmgw.errors import GatewayError
from llmgw.exchange import Attempt, Deployment
from llmgw.providers.base import Clocks, Run
from llmgw.providers.litellm import AHEAD, LiteLLMAnswer, LiteLLMProvider, Reader, arguments
from llmgw.relay import Relay
from llmgw.wire import DONE, Call, read_call
from tests.servers import free_port
from tests.upstreams.recorder import TEXT, Recorder, Reply, chat_chunks, event, stream

pytestmark = pytest.mark.usefixtures("close_litellm")

ASK = {"model": "asked", "messages": [{"role": "user", "content": "hi"}]}
KEY = "sk-ours-0123456789"
SPAN: ContextVar[str] = ContextVar("SPAN", default="none")


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


ASKED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


async def opened(recorder: Recorder, provider: str = "openai") -> LiteLLMAnswer:
    """An answer that is a stream, still unread."""
    return await LiteLLMProvider().open(call_of(**ASKED), place(provider, recorder), [], math.inf)


async def read_all(answer: LiteLLMAnswer) -> list[list[bytes]]:
    """What each read gives."""
    found: list[list[bytes]] = []
    while given := await answer.read(math.inf):
        found.append(given)
    return found


async def test_what_comes_together_is_read_together(recorder: Recorder) -> None:
    """One write of the upstream's, one read: its three texts and the finish."""
    recorder.script.append(stream([b"".join(chat_chunks(include_usage=True))]))
    answer = await opened(recorder)

    reads = await read_all(answer)
    await answer.aclose()

    assert len(reads[0]) >= 4
    assert len(reads) <= 2  # LiteLLM may wait for the connection's end before it gives the usage
    assert text_of(reads[0]) == TEXT
    assert reads[-1][-1] == DONE


async def test_what_comes_alone_is_read_alone(recorder: Recorder) -> None:
    """A text does not wait for the next."""
    recorder.script.append(stream(chat_chunks(include_usage=True), hold=1))
    answer = await opened(recorder)

    with anyio.fail_after(60):
        first = await answer.read(math.inf)
    recorder.release()
    rest = await read_all(answer)
    await answer.aclose()

    assert text_of(first) == "Hello"
    assert text_of([text for texts in rest for text in texts]) == TEXT.removeprefix("Hello")


async def test_a_failure_waits_behind_what_was_good(recorder: Recorder) -> None:
    """Three texts and a broken connection in one breath: first the texts."""
    good = chat_chunks()[:3]
    recorder.script.append(stream([b"".join(good), b""], cut=1))
    answer = await opened(recorder)

    said = ""
    while said != TEXT:
        said += text_of(await answer.read(math.inf))
    with pytest.raises(errors.ProviderUnavailableError):
        await answer.read(math.inf)
    await answer.aclose()


@pytest.mark.parametrize("provider", CUT)
async def test_closing_while_it_reads_ends_the_task(provider: str, recorder: Recorder) -> None:
    """A read was given up; the task that waits for the upstream must not outlive the answer."""
    recorder.script.append(stream([*CUT[provider], *CUT[provider]], hold=len(CUT[provider])))
    answer = await opened(recorder, provider)
    assert answer.reader is not None

    with anyio.move_on_after(0.2):
        await read_all(answer)
    task = answer.reader.task
    assert task is not None
    assert not task.done()
    await answer.aclose()

    assert task.done()
    assert await answer.read(math.inf) == []
    await recorder.until(lambda: recorder.cut == 1)


async def test_a_read_that_was_given_up_loses_nothing(recorder: Recorder) -> None:
    """What comes meanwhile is there for the next."""
    recorder.script.append(stream(chat_chunks(include_usage=True), hold=1))
    answer = await opened(recorder)

    found = await answer.read(math.inf)
    with anyio.move_on_after(0.1):
        found += await answer.read(math.inf)
    recorder.release()
    for texts in await read_all(answer):
        found += texts
    await answer.aclose()

    assert text_of(found) == TEXT


async def test_closing_what_was_never_read(recorder: Recorder) -> None:
    """There is no task yet, but a connection."""
    recorder.script.append(stream(CUT["openai"] * 2, hold=1))
    answer = await opened(recorder)

    await answer.aclose()

    assert await answer.read(math.inf) == []
    await recorder.until(lambda: recorder.cut == 1)


class Part:
    """A part of a stream, as LiteLLM's are."""

    def __init__(self, word: str, reason: str | None = None, **more: Any) -> None:
        choice = {"index": 0, "delta": {"content": word}}
        self.data = {"choices": [{**choice, "finish_reason": reason} if reason else choice], **more}

    def model_dump(self, *, exclude_none: bool, mode: str) -> dict[str, Any]:
        assert (exclude_none, mode) == (True, "json")
        return self.data


class Parts:
    """A stream of LiteLLM's that never waits; it may fail at its end."""

    received_finish_reason: str | None = "stop"
    sent_stream_usage = False

    def __init__(self, *parts: Part, failure: Exception | None = None) -> None:
        self.parts = list(parts)
        self.failures = [failure or StopAsyncIteration()]
        self.closed = False

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> Part:
        if not self.parts:
            raise self.failures.pop()
        part = self.parts.pop(0)
        self.sent_stream_usage = "usage" in part.data
        return part

    async def aclose(self) -> None:
        self.closed = True


async def test_no_more_is_read_ahead_than_is_taken() -> None:
    """A slow client slows the upstream."""
    parts = Parts(*[Part("x")] * (3 * AHEAD))
    answer = LiteLLMAnswer([], Reader("openai", parts, 1))

    first = await answer.read(math.inf)
    await anyio.sleep(0.05)
    left = len(parts.parts)
    rest = [len(texts) for texts in await read_all(answer)]
    await answer.aclose()

    assert len(first) == AHEAD
    assert left >= AHEAD - 2  # the next are there, and one that waits for room
    assert rest == [AHEAD, AHEAD + 1]  # and the end


async def test_nothing_is_asked_of_litellm_behind_the_usage() -> None:
    """It would put the whole answer together once more, to count it: 40 us an event."""
    parts = Parts(Part("x", "stop"), Part("", usage={"total_tokens": 1}), Part("never asked"))
    answer = LiteLLMAnswer([], Reader("openai", parts, 1))

    reads = await read_all(answer)
    await answer.aclose()

    assert [len(texts) for texts in reads] == [3]
    assert json.loads(reads[0][1]) == {"choices": [], "usage": {"total_tokens": 1}}
    assert reads[0][2] == DONE
    assert len(parts.parts) == 1
    assert parts.closed


async def test_a_litellm_that_tells_no_usage_is_asked_to_its_end() -> None:
    """Behind the finish reason only a usage is worth sending."""
    answer = LiteLLMAnswer([], Reader("openai", Parts(Part("x", "stop"), Part("")), 1))

    [texts] = await read_all(answer)
    await answer.aclose()

    assert json.loads(texts[0])["choices"][0]["finish_reason"] == "stop"
    assert texts[1:] == [DONE]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("fails", [True, False])
async def test_nothing_is_left_to_the_collector(*, fails: bool, told: bool) -> None:
    """Neither after an end nor after an error, whether it was raised or not."""
    parts = Parts(Part("x", "stop"), failure=ValueError("x") if fails else None)
    reader = Reader("openai", parts, 1)
    answer, seen = LiteLLMAnswer([], reader), weakref.ref(reader)
    del reader

    gc.disable()
    try:
        await answer.read(math.inf)
        if told:
            with suppress(errors.ProviderUnavailableError):
                await answer.read(math.inf)
        await answer.aclose()
        del answer
        await anyio.sleep(0.05)  # the portal's last callback
        assert seen() is None
    finally:
        gc.enable()


class Silent(Parts):
    """Behind its parts nothing comes, not even the end."""

    async def __anext__(self) -> Part:
        if not self.parts:
            await asyncio.Event().wait()
        return await super().__anext__()


async def test_each_read_has_a_clock_of_its_own() -> None:
    """A short wait behind a long one ends in time, and again; nothing is left to the collector."""
    reader = Reader("openai", Silent(Part("x"), Part("y")), 1)
    answer, seen = LiteLLMAnswer([], reader), weakref.ref(reader)
    began, expired = time.monotonic(), 0
    del reader

    gc.disable()
    try:
        said = ""
        while said != "xy":
            said += text_of(await answer.read(began + 60))
        for _ in range(2):
            try:
                await answer.read(time.monotonic() + 0.05)
            except Expired:
                expired += 1
        took = time.monotonic() - began
        await answer.aclose()
        del answer
        await anyio.sleep(0.05)  # the portal's last callback
        assert seen() is None
    finally:
        gc.enable()

    assert expired == 2
    assert took >= 0.09


async def test_a_finish_reason_that_litellm_made_up_is_a_cut() -> None:
    """It says nothing of having received one; what was good goes out before the error."""

    class Cut(Parts):
        received_finish_reason = None
        intermittent_finish_reason = None

    answer = LiteLLMAnswer([], Reader("openai", Cut(Part("x"), Part("", "stop")), 1))

    [text] = await answer.read(math.inf)
    with pytest.raises(errors.ProviderUnavailableError) as caught:
        await answer.read(math.inf)
    await answer.aclose()

    assert text_of([text]) == "x"
    assert caught.value.code == "upstream_truncated"


async def test_an_error_has_its_cause() -> None:
    """For the log: LiteLLM's own."""
    failure = ValueError("x")
    answer = LiteLLMAnswer([], Reader("openai", Parts(failure=failure), 1))

    with pytest.raises(errors.ProviderUnavailableError) as caught:
        await answer.read(math.inf)
    await answer.aclose()

    assert caught.value.__cause__ is failure


async def test_the_reader_runs_in_the_context_of_its_request() -> None:
    """A span that is current here is current where LiteLLM works."""
    seen: list[str] = []

    class Watched(Parts):
        async def __anext__(self) -> Part:
            seen.append(SPAN.get())
            return await super().__anext__()

    answer = LiteLLMAnswer([], Reader("openai", Watched(Part("x", "stop")), 1))
    token = SPAN.set("ours")
    try:
        await read_all(answer)
    finally:
        SPAN.reset(token)
    await answer.aclose()

    assert set(seen) == {"ours"}


async def test_silence_meets_the_clock(recorder: Recorder) -> None:
    """The clocks are ours on this path too; a process's first call takes longer than this one."""
    await ask(call_of(stream=True), place("openai", recorder))
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
