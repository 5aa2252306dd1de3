"""OpenAIProvider: the client's bytes go out, the upstream's come back, errors are ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmgw import errors
from llmgw.exchange import Deployment
from llmgw.providers.base import Clocks, Run
from llmgw.providers.openai import OpenAIProvider
from llmgw.relay import Relay
from llmgw.wire import DONE, Call, read_call
from tests.servers import free_port
from tests.upstreams.recorder import Recorder, Reply, chat_chunks, stream

ASK = {"model": "asked", "messages": [{"role": "user", "content": "hi"}]}


def call_of(**fields: Any) -> Call:
    return read_call(json.dumps({**ASK, **fields}).encode())


def deployment_of(recorder: Recorder, **options: Any) -> Deployment:
    return Deployment("groq", "there", f"{recorder.url}/v1", "sk-ours", **options)


@pytest.fixture
async def provider() -> AsyncIterator[OpenAIProvider]:
    made = OpenAIProvider()
    yield made
    await made.aclose()


async def ask(
    provider: OpenAIProvider, call: Call, deployment: Deployment, clocks: Clocks | None = None
) -> list[bytes]:
    """Every payload of one attempt."""
    run = Run(provider, call, deployment, clocks or Clocks(), Relay(call, deployment.provider))
    try:
        given = payloads = await run.begin([(b"traceparent", b"00-1-2-01")])
        while call.stream and given:
            given = await run.more()
            payloads = [*payloads, *given]
        return payloads
    finally:
        await run.aclose()


async def test_the_request_goes_out_with_our_key_and_the_deployments_model(
    recorder: Recorder, provider: OpenAIProvider
) -> None:
    """URL, headers and body are the deployment's; what we do not know goes through as it came."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    call = call_of(tools=tools, vendor_extension={"x": [1, None]}, seed=7)

    await ask(provider, call, deployment_of(recorder, headers=(("X-Org", "o"),)))

    sent = recorder.requests[0]
    assert (sent.method, sent.path) == ("POST", "/v1/chat/completions")
    assert sent.headers["authorization"] == "Bearer sk-ours"
    assert sent.headers["accept-encoding"] == "identity"
    assert sent.headers["traceparent"] == "00-1-2-01"
    assert sent.headers["x-org"] == "o"
    expected = {"model": "there", "tools": tools, "vendor_extension": {"x": [1, None]}, "seed": 7}
    assert sent.json() == {**ASK, **expected, "temperature": 0.7}


async def test_no_key_sends_no_authorization(recorder: Recorder, provider: OpenAIProvider) -> None:
    """A local server needs none."""
    await ask(provider, call_of(), Deployment("ollama", "m", f"{recorder.url}/v1"))

    assert "authorization" not in recorder.requests[0].headers


async def test_a_whole_answer_comes_back_byte_for_byte(
    recorder: Recorder, provider: OpenAIProvider
) -> None:
    """Unknown fields and even the spacing of the answer are kept."""
    choice = b'{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}'
    body = b'{ "choices": [ ' + choice + b' ], "new": 1 }'
    recorder.script.append(Reply(headers={"content-type": "application/json"}, body=body))

    assert await ask(provider, call_of(), deployment_of(recorder)) == [body]


async def test_usage_is_asked_for_and_withheld_from_who_did_not_ask(
    recorder: Recorder, provider: OpenAIProvider
) -> None:
    """The upstream is asked for usage; the client's stream has no usage event."""
    call = call_of(stream=True)

    payloads = await ask(provider, call, deployment_of(recorder))

    assert recorder.requests[0].json()["stream_options"] == {"include_usage": True}
    assert all(json.loads(payload)["choices"] for payload in payloads)


async def test_usage_goes_to_who_asked(recorder: Recorder, provider: OpenAIProvider) -> None:
    """The client's own include_usage is served."""
    call = call_of(stream=True, stream_options={"include_usage": True})

    payloads = await ask(provider, call, deployment_of(recorder))

    assert json.loads(payloads[-1])["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequestError),
        (401, errors.AuthError),
        (403, errors.PermissionDeniedError),
        (404, errors.NotFoundError),
        (422, errors.InvalidRequestError),
        (429, errors.RateLimitError),
        (500, errors.ProviderUnavailableError),
        (503, errors.ProviderUnavailableError),
        (302, errors.ProviderUnavailableError),
    ],
)
async def test_a_refusal_becomes_our_error(
    recorder: Recorder, provider: OpenAIProvider, status: int, kind: type[errors.GatewayError]
) -> None:
    """Each status has its class, with the provider's name."""
    headers = {"retry-after": "7", "location": "http://127.0.0.1:1/"}
    recorder.script.append(Reply(status=status, headers=headers, body={"error": {"message": "no"}}))

    with pytest.raises(kind) as caught:
        await ask(provider, call_of(), deployment_of(recorder))

    assert type(caught.value) is kind
    assert caught.value.provider == "groq"
    if status == 429:
        assert caught.value.retry_after == 7


async def test_a_refused_request_keeps_the_upstreams_words(
    recorder: Recorder, provider: OpenAIProvider
) -> None:
    """Message, param and code of a 400 tell the client what to mend."""
    error = {"message": "too long", "param": "messages", "code": "context_length_exceeded"}
    recorder.script.append(Reply(status=400, body={"error": error}))

    with pytest.raises(errors.InvalidRequestError, match="too long") as caught:
        await ask(provider, call_of(), deployment_of(recorder))

    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")
    assert caught.value.next


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"[" * 100_000, b"\xff", b""])
async def test_a_refusal_without_json_says_nothing_of_its_body(
    recorder: Recorder, provider: OpenAIProvider, body: bytes
) -> None:
    """An error page does not reach the client."""
    recorder.script.append(Reply(status=400, body=body))

    with pytest.raises(errors.InvalidRequestError, match=r"refused the request \(status 400\)"):
        await ask(provider, call_of(), deployment_of(recorder))


@pytest.mark.parametrize("wanted", [False, True])
async def test_html_with_status_200_is_garbage(
    recorder: Recorder, provider: OpenAIProvider, wanted: bool
) -> None:
    """A captive portal is not an answer."""
    reply = Reply(headers={"content-type": "text/html"}, body=b"<html>Sign in</html>")
    recorder.script.append(reply)

    with pytest.raises(errors.ProviderUnavailableError) as caught:
        await ask(provider, call_of(stream=wanted), deployment_of(recorder))

    assert caught.value.code == "upstream_malformed"


async def test_a_cut_stream_is_not_a_success(recorder: Recorder, provider: OpenAIProvider) -> None:
    """An end without a finish reason is an error of the provider."""
    recorder.script.append(stream(chat_chunks()[:2]))

    with pytest.raises(errors.ProviderUnavailableError) as caught:
        await ask(provider, call_of(stream=True), deployment_of(recorder))

    assert caught.value.code == "upstream_truncated"


async def test_a_reset_stream_is_an_error(recorder: Recorder, provider: OpenAIProvider) -> None:
    """A connection that breaks midway is the provider's failure."""
    recorder.script.append(stream(chat_chunks(), cut=2))

    with pytest.raises(errors.ProviderUnavailableError):
        await ask(provider, call_of(stream=True), deployment_of(recorder))


async def test_nobody_listening_is_an_error_to_repeat(provider: OpenAIProvider) -> None:
    """A refused connection may be asked again, there or elsewhere."""
    nowhere = Deployment("vllm", "m", f"http://127.0.0.1:{free_port()}/v1")

    with pytest.raises(errors.ProviderUnavailableError, match="cannot be reached") as caught:
        await ask(provider, call_of(), nowhere)

    assert caught.value.same
    assert caught.value.next


async def test_a_deployment_without_address_is_an_error_of_configuration(
    provider: OpenAIProvider,
) -> None:
    """There is no default place to send a key to."""
    with pytest.raises(errors.AuthError, match="No address"):
        await ask(provider, call_of(), Deployment("vllm", "m"))


@pytest.mark.parametrize("streamed", [False, True])
async def test_silence_ends_by_its_clock(
    recorder: Recorder, provider: OpenAIProvider, streamed: bool
) -> None:
    """No headers within the clock: TimeoutError, and the connection is closed."""
    recorder.script.append(stream(chat_chunks(), hold=0))

    with pytest.raises(errors.TimeoutError, match=r"0\.05 s"):
        await ask(
            provider,
            call_of(stream=streamed),
            deployment_of(recorder),
            Clocks(first_token=0.05, answer=0.05),
        )

    await recorder.until(lambda: recorder.closed == 1)


async def test_a_stall_ends_by_the_idle_clock(recorder: Recorder, provider: OpenAIProvider) -> None:
    """A stream that falls silent midway is a timeout, and its connection is closed."""
    recorder.script.append(stream(chat_chunks(), hold=2))

    with pytest.raises(errors.TimeoutError, match="next chunk"):
        await ask(provider, call_of(stream=True), deployment_of(recorder), Clocks(idle=0.05))

    await recorder.until(lambda: recorder.closed == 1)


async def test_a_finished_stream_need_not_say_done(
    recorder: Recorder, provider: OpenAIProvider
) -> None:
    """After the finish reason the end is awaited for a moment only."""
    chunks = [chunk for chunk in chat_chunks() if DONE not in chunk]
    recorder.script.append(stream([*chunks, b": held\n\n"], hold=len(chunks)))

    payloads = await ask(provider, call_of(stream=True), deployment_of(recorder), Clocks(tail=0.05))

    assert json.loads(payloads[-1])["choices"][0]["finish_reason"] == "stop"


async def test_connections_are_kept_between_calls(
    recorder: Recorder, provider: OpenAIProvider
) -> None:
    """Two calls in turn share one connection."""
    for _ in range(2):
        await ask(provider, call_of(), deployment_of(recorder))

    assert recorder.open_connections + recorder.closed == 1
